// What the compiled inner loops share (compiled.py finds them): a copy for machines with fused multiply-adds, rotations
// and order statistics.

#include <math.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx2,fma", "default")))
#else
#define CLONES
#endif

#ifdef __GNUC__ // into each copy
#define FORCED __attribute__((always_inline))
#else
#define FORCED
#endif

// The value that would be at `k` if `values` were sorted; afterwards smaller ones are before it.
static inline double selected(double *values, long count, long k)
{
    long low = 0, high = count - 1;
    while (low < high) {
        const double pivot = values[low + (high - low) / 2];
        long i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot)
                i++;
            while (values[j] > pivot)
                j--;
            if (i <= j) {
                const double other = values[i];
                values[i++] = values[j];
                values[j--] = other;
            }
        }
        if (k <= j)
            high = j;
        else if (k >= i)
            low = i;
        else
            break;
    }
    return values[k];
}

// The median of values, which it reorders; 0 of none.
static inline double median(double *values, long count)
{
    if (count < 1)
        return 0.0;
    const double upper = selected(values, count, count / 2);
    double lower = count % 2 ? upper : values[0];
    for (long k = 0; k < count / 2 && count % 2 == 0; k++)
        lower = values[k] > lower ? values[k] : lower;
    return 0.5 * (lower + upper);
}

// The rotation (3, 3) about a vector by its length, after Rodrigues.
static inline void rotation_of(const double *v, double *R)
{
    const double angle = sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]), c = cos(angle);
    const double a = angle > 1e-8 ? sin(angle) / angle : 1.0;
    const double b = angle > 1e-8 ? (1.0 - cos(angle)) / (angle * angle) : 0.5;
    const double found[9] = {
        c + b * v[0] * v[0],        b * v[0] * v[1] - a * v[2], b * v[0] * v[2] + a * v[1],
        b * v[1] * v[0] + a * v[2], c + b * v[1] * v[1],        b * v[1] * v[2] - a * v[0],
        b * v[2] * v[0] - a * v[1], b * v[2] * v[1] + a * v[0], c + b * v[2] * v[2],
    };
    for (int i = 0; i < 9; i++)
        R[i] = found[i];
}
