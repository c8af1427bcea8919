/* One SGD or Adam step per row for a network of dense ReLU layers with a sigmoid or softmax output and
 * cross-entropy: the floor that the compiled online path is measured against. Nothing else is done: no scaling,
 * no checks, no metrics. Sizes are arguments, weights are (inputs, units), row-major; biases follow the weights.
 *
 * reference ROWS REPEATS sgd|adam INPUTS UNITS ... OUTPUTS prints the least microseconds per row over the repeats.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_LAYERS 8

static void dense(const float *w, const float *x, float *y, int inputs, int units) {
    const float *bias = w + (long)inputs * units;
    for (int i = 0; i < units; i++) y[i] = bias[i];
    for (int j = 0; j < inputs; j++) {
        const float xj = x[j];
        const float *row = w + (long)j * units;
        for (int i = 0; i < units; i++) y[i] += xj * row[i];
    }
}

static void transposed(const float *w, const float *delta, const float *x, float *back, int inputs, int units) {
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

static void sgd(float *w, const float *x, const float *delta, int inputs, int units, float rate) {
    for (int j = 0; j <= inputs; j++) {
        const float scale = rate * (j < inputs ? x[j] : 1.0f);
        float *row = w + (long)j * units;
        for (int i = 0; i < units; i++) row[i] -= scale * delta[i];
    }
}

static void adam(float *w, float *m, float *v, const float *x, const float *delta, int inputs, int units,
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

/* sizes: inputs, units of each layer, outputs. x: (rows, inputs). scratch: at least 2 * sum(sizes). m, v: NULL for
 * SGD. step: steps taken before. */
void learn(const int *sizes, int layers, float *w, float *m, float *v, const float *x, const int *labels, int rows,
           float rate, float *scratch, long step) {
    float *value[MAX_LAYERS + 1], *delta[MAX_LAYERS + 1];
    long start[MAX_LAYERS];
    long place = 0;
    for (int l = 0; l <= layers; l++) {
        value[l] = scratch;
        delta[l] = scratch + sizes[l];
        scratch += 2 * sizes[l];
        if (l < layers) {
            start[l] = place;
            place += (long)(sizes[l] + 1) * sizes[l + 1];
        }
    }
    for (int r = 0; r < rows; r++) {
        memcpy(value[0], x + (long)r * sizes[0], sizes[0] * sizeof(float));
        for (int l = 0; l < layers; l++) {
            dense(w + start[l], value[l], value[l + 1], sizes[l], sizes[l + 1]);
            if (l < layers - 1)
                for (int i = 0; i < sizes[l + 1]; i++) value[l + 1][i] = value[l + 1][i] > 0 ? value[l + 1][i] : 0;
        }
        output(value[layers], delta[layers], sizes[layers], labels[r]);
        for (int l = layers - 1; l > 0; l--)
            transposed(w + start[l], delta[l + 1], value[l], delta[l], sizes[l], sizes[l + 1]);
        step++;
        const float first = 1.0f - powf(0.9f, step), second = 1.0f - powf(0.999f, step);
        for (int l = 0; l < layers; l++) {
            if (m)
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
    const int rows = atoi(words[1]), repeats = atoi(words[2]), is_adam = !strcmp(words[3], "adam");
    const int layers = count - 5;
    int sizes[MAX_LAYERS + 1];
    long parameters = 0, values = 0;
    for (int l = 0; l <= layers; l++) {
        values += sizes[l] = atoi(words[4 + l]);
        if (l) parameters += (long)(sizes[l - 1] + 1) * sizes[l];
    }
    float *w = numbers(parameters, 0.1f), *m = numbers(parameters, 0.0f), *v = numbers(parameters, 0.0f);
    float *x = numbers((long)rows * sizes[0], 2.0f), *scratch = numbers(2 * values, 0.0f);
    int *labels = malloc(rows * sizeof(int));
    for (int r = 0; r < rows; r++) labels[r] = rand() % (sizes[layers] > 1 ? sizes[layers] : 2);
    double best = 1e9;
    for (int k = 0; k < repeats; k++) {
        const double start = now();
        learn(sizes, layers, w, is_adam ? m : NULL, is_adam ? v : NULL, x, labels, rows, 1e-3f, scratch, (long)k * rows);
        const double spent = now() - start;
        best = spent < best ? spent : best;
    }
    printf("%.4f\n", 1e6 * best / rows);
    return 0;
}
