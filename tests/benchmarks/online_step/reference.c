/* One step per row for a network of dense ReLU layers with a sigmoid or softmax output and cross-entropy: the floor
 * that the compiled online path is measured against. Nothing else is done: no scaling, no checks, no metrics. Sizes
 * are arguments, weights are (inputs, units), row-major; biases follow the weights.
 *
 * reference ROWS REPEATS sgd|adam|member|normed INPUTS UNITS ... OUTPUTS prints the least microseconds per row over
 * the repeats. A member of a committee has Adam without momentum, and clips the norm of its gradient; "normed" has
 * layer normalisation of the hidden layers, too.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_LAYERS 8
#define CLIP_NORM 20.0f

enum kind { SGD, ADAM, MEMBER, NORMED };

static void dense(const float *restrict w, const float *restrict x, float *restrict y, int inputs, int units) {
    const float *bias = w + (long)inputs * units;
    for (int i = 0; i < units; i++) y[i] = bias[i];
    for (int j = 0; j < inputs; j++) {
        const float xj = x[j];
        const float *row = w + (long)j * units;
        for (int i = 0; i < units; i++) y[i] += xj * row[i];
    }
}

static void transposed(const float *restrict w, const float *restrict delta, const float *restrict x, float *restrict back,
                       int inputs, int units) {
    for (int j = 0; j < inputs; j++) {
        const float *row = w + (long)j * units;
        float sum = 0.0f;
        for (int i = 0; i < units; i++) sum += row[i] * delta[i];
        back[j] = x[j] > 0.0f ? sum : 0.0f;
    }
}

static void output(float *y, float *delta, int outputs, int label) {
    if (outputs == 1) {
        delta[0] = 1.0f / (1.0f + expf(-y[0])) - (float)label;
        return;
    }
    float top = y[0], sum = 0.0f;
    for (int i = 1; i < outputs; i++) top = y[i] > top ? y[i] : top;
    for (int i = 0; i < outputs; i++) sum += (delta[i] = expf(y[i] - top));
    for (int i = 0; i < outputs; i++) delta[i] /= sum;
    delta[label] -= 1.0f;
}

static void sgd(float *restrict w, const float *restrict x, const float *restrict delta, int inputs, int units, float rate) {
    for (int j = 0; j <= inputs; j++) {
        const float scale = rate * (j < inputs ? x[j] : 1.0f);
        float *row = w + (long)j * units;
        for (int i = 0; i < units; i++) row[i] -= scale * delta[i];
    }
}

static void adam(float *restrict w, float *restrict m, float *restrict v, const float *restrict x,
                 const float *restrict delta, int inputs, int units,
                 float rate, float correction) {
    for (int j = 0; j <= inputs; j++) {
        const float xj = j < inputs ? x[j] : 1.0f;
        const long row = (long)j * units;
        for (int i = 0; i < units; i++) {
            const float g = xj * delta[i];
            m[row + i] = 0.9f * m[row + i] + 0.1f * g;
            v[row + i] = 0.999f * v[row + i] + 0.001f * g * g;
            w[row + i] -= rate * m[row + i] / (sqrtf(v[row + i]) * correction + 1e-8f);
        }
    }
}

static float square_sum(const float *x, int size) {
    float sum = 0.0f;
    for (int i = 0; i < size; i++) sum += x[i] * x[i];
    return sum;
}

/* Layer normalisation of the sums y, in place and into normed; returns 1 / spread. */
static float normalise(float *y, float *normed, int units) {
    float sum = 0.0f, squares = 0.0f;
    for (int i = 0; i < units; i++) sum += y[i];
    const float mean = sum / units;
    for (int i = 0; i < units; i++) squares += (y[i] - mean) * (y[i] - mean);
    const float factor = 1.0f / sqrtf(squares / units + 1e-3f);
    for (int i = 0; i < units; i++) y[i] = normed[i] = (y[i] - mean) * factor;
    return factor;
}

static void normalise_back(float *delta, const float *normed, float factor, int units) {
    float sum = 0.0f, along = 0.0f;
    for (int i = 0; i < units; i++) sum += delta[i], along += delta[i] * normed[i];
    const float mean = sum / units, share = along / units;
    for (int i = 0; i < units; i++) delta[i] = factor * (delta[i] - mean - share * normed[i]);
}

static void adam_without_momentum(float *restrict w, float *restrict v, const float *x, const float *restrict delta,
                                  int inputs, int units, float rate, float correction, float clip) {
    for (int j = 0; j <= inputs; j++) {
        const float xj = clip * (j < inputs ? x[j] : 1.0f);
        const long row = (long)j * units;
        for (int i = 0; i < units; i++) {
            const float g = xj * delta[i];
            v[row + i] = 0.999f * v[row + i] + 0.001f * g * g;
            w[row + i] -= rate * g / (sqrtf(v[row + i]) * correction + 1e-8f);
        }
    }
}

/* sizes: inputs, units of each layer, outputs. x: (rows, inputs). scratch: at least 3 * sum(sizes). step: steps
 * taken before. */
void learn(enum kind kind, const int *sizes, int layers, float *w, float *m, float *v, const float *x, const int *labels,
           int rows, float rate, float *scratch, long step) {
    float *value[MAX_LAYERS + 1], *delta[MAX_LAYERS + 1], *normed[MAX_LAYERS + 1], factor[MAX_LAYERS + 1];
    long start[MAX_LAYERS];
    long place = 0;
    for (int l = 0; l <= layers; l++) {
        value[l] = scratch;
        delta[l] = scratch + sizes[l];
        normed[l] = scratch + 2 * sizes[l];
        scratch += 3 * sizes[l];
        if (l < layers) {
            start[l] = place;
            place += (long)(sizes[l] + 1) * sizes[l + 1];
        }
    }
    for (int r = 0; r < rows; r++) {
        memcpy(value[0], x + (long)r * sizes[0], sizes[0] * sizeof(float));
        for (int l = 0; l < layers; l++) {
            dense(w + start[l], value[l], value[l + 1], sizes[l], sizes[l + 1]);
            if (kind == NORMED && l < layers - 1) factor[l + 1] = normalise(value[l + 1], normed[l + 1], sizes[l + 1]);
            if (l < layers - 1)
                for (int i = 0; i < sizes[l + 1]; i++) value[l + 1][i] = value[l + 1][i] > 0 ? value[l + 1][i] : 0;
        }
        output(value[layers], delta[layers], sizes[layers], labels[r]);
        for (int l = layers - 1; l > 0; l--) {
            transposed(w + start[l], delta[l + 1], value[l], delta[l], sizes[l], sizes[l + 1]);
            if (kind == NORMED) normalise_back(delta[l], normed[l], factor[l], sizes[l]);
        }
        step++;
        float squares = 0.0f;
        if (kind >= MEMBER)
            for (int l = 0; l < layers; l++)
                squares += (1.0f + square_sum(value[l], sizes[l])) * square_sum(delta[l + 1], sizes[l + 1]);
        const float clip = sqrtf(squares) > CLIP_NORM ? CLIP_NORM / sqrtf(squares) : 1.0f;
        const float first = 1.0f - powf(0.9f, step), second = 1.0f - powf(0.999f, step);
        for (int l = 0; l < layers; l++) {
            if (kind >= MEMBER)
                adam_without_momentum(w + start[l], v + start[l], value[l], delta[l + 1], sizes[l], sizes[l + 1], rate,
                                      1.0f / sqrtf(second), clip);
            else if (kind == ADAM)
                adam(w + start[l], m + start[l], v + start[l], value[l], delta[l + 1], sizes[l], sizes[l + 1],
                     rate / first, 1.0f / sqrtf(second));
            else
                sgd(w + start[l], value[l], delta[l + 1], sizes[l], sizes[l + 1], rate);
        }
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static float *numbers(long size, float scale) {
    float *x = aligned_alloc(64, (size * sizeof(float) + 63) / 64 * 64);
    for (long i = 0; i < size; i++) x[i] = scale * (2.0f * rand() / (float)RAND_MAX - 1.0f);
    return x;
}

int main(int count, char **words) {
    static const char *const kinds[] = {"sgd", "adam", "member", "normed"};
    enum kind kind = SGD;
    while (kind < NORMED && strcmp(words[3], kinds[kind])) kind++;
    const int rows = atoi(words[1]), repeats = atoi(words[2]);
    const int layers = count - 5;
    int sizes[MAX_LAYERS + 1];
    long parameters = 0, values = 0;
    for (int l = 0; l <= layers; l++) {
        values += sizes[l] = atoi(words[4 + l]);
        if (l) parameters += (long)(sizes[l - 1] + 1) * sizes[l];
    }
    float *w = numbers(parameters, 0.1f), *m = numbers(parameters, 0.0f), *v = numbers(parameters, 0.0f);
    float *x = numbers((long)rows * sizes[0], 2.0f), *scratch = numbers(3 * values, 0.0f);
    int *labels = malloc(rows * sizeof(int));
    for (int r = 0; r < rows; r++) labels[r] = rand() % (sizes[layers] > 1 ? sizes[layers] : 2);
    double best = 1e9;
    for (int k = 0; k < repeats; k++) {
        const double start = now();
        learn(kind, sizes, layers, w, m, v, x, labels, rows, 1e-3f, scratch, (long)k * rows);
        const double spent = now() - start;
        best = spent < best ? spent : best;
    }
    printf("%.4f\n", 1e6 * best / rows);
    return 0;
}
