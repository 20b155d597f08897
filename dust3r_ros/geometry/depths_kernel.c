// Robust means of log depth (see depths.py, which documents the method and does the same in NumPy).

#include "kernels.h"

#define BLOCK 64

// The `center` (P) of `logs` (K, P) by `weight` (K, P), reweighted from the most certain, and the sum `agreed` (P) of
// `gain` (K, P), less where it is off. `most` (P): the largest weight. Rows of K are `stride` numbers apart.
ROUNDED_CLONES void settle_logs(long estimates, long pixels, long stride, long rounds, const float *logs,
                                const float *gain, const float *weight, const float *most, float *center,
                                float *agreed)
{
    for (long first = 0; first < pixels; first += BLOCK) {
        const int count = (int)(pixels - first < BLOCK ? pixels - first : BLOCK);
        float middle[BLOCK], around[BLOCK], sum[BLOCK] = {0}, total[BLOCK] = {0};
        for (long k = 0; k < estimates; k++)
            for (int p = 0; p < count; p++) {
                const long at = k * stride + first + p;
                const float one = weight[at] == most[first + p] ? 1.0f : 0.0f;
                sum[p] += one * logs[at], total[p] += one;
            }
        for (int p = 0; p < count; p++)
            around[p] = middle[p] = sum[p] / total[p], total[p] = 0.0f;
        for (long round = 0; round < rounds; round++) {
            for (int p = 0; p < count; p++)
                around[p] = middle[p], sum[p] = total[p] = 0.0f;
            for (long k = 0; k < estimates; k++)
                for (int p = 0; p < count; p++) {
                    const long at = k * stride + first + p;
                    const float off = logs[at] - around[p], pull = weight[at] / (off * off + 1.0f);
                    sum[p] += pull * logs[at], total[p] += pull;
                }
            for (int p = 0; p < count; p++)
                middle[p] = sum[p] / (total[p] > 1e-12f ? total[p] : 1e-12f), total[p] = 0.0f;
        }
        for (long k = 0; k < estimates; k++)
            for (int p = 0; p < count; p++) {
                const long at = k * stride + first + p;
                const float off = rounds ? logs[at] - around[p] : 0.0f;
                total[p] += gain[at] / (off * off + 1.0f);
            }
        for (int p = 0; p < count; p++)
            center[first + p] = middle[p], agreed[first + p] = total[p];
    }
}
