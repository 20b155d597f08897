// What the compiled inner loops share (compiled.py finds them): copies for machines with wider registers, order
// statistics, rotations and the projection of depth maps.

#include <math.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ROUNDED_CLONES __attribute__((target_clones("avx2", "default"))) // every operation rounds, as in NumPy
#if __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v3", "default"))) // with AVX2 and FMA
#else
#define CLONES ROUNDED_CLONES
#endif
#else
#define CLONES
#define ROUNDED_CLONES
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

// Where bilinear interpolation at (u, v) begins in an image of `rows` by `columns`, and how far on it is, `a` and `b`; the
// border goes on beyond itself.
FORCED static inline int corner_of(float u, float v, int rows, int columns, float *a, float *b)
{
    const float right = (float)(columns - 1), bottom = (float)(rows - 1);
    u = !(u > 0.0f) ? 0.0f : u > right ? right : u; // of NaN, too: no index comes from it
    v = !(v > 0.0f) ? 0.0f : v > bottom ? bottom : v;
    int column = (int)u, row = (int)v;
    column = column > columns - 2 ? columns - 2 : column;
    row = row > rows - 2 ? rows - 2 : row;
    *a = u - (float)column;
    *b = v - (float)row;
    return row * columns + column;
}

// The value there; `p`: the first of the four.
FORCED static inline float between(const float *p, int columns, float a, float b)
{
    const float above = p[0] + a * (p[1] - p[0]), below = p[columns] + a * (p[columns + 1] - p[columns]);
    return above + b * (below - above);
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

// A pinhole camera of `height` by `width` pixels, with its centre (principal point).
struct pinhole {
    long height, width;
    double focal, cx, cy;
};

// The nearest pixels `place` (width), flat, of `other` at which it sees the points of row `y` of a depth map, and their
// `z` there; -1 where there is no depth or another camera would see them outside its image or behind itself. As
// `reprojected` and `landed` in depths.py, in single precision. `T` (16): other_T_c.
FORCED static inline void land_row(const struct pinhole *own, const struct pinhole *other, const float *T, long y,
                                   const float *depth, float *z, int *place)
{
    const float row = (float)(((double)y - own->cy) / own->focal), focal = (float)other->focal;
    const float ox = (float)other->cx, oy = (float)other->cy;
    const float wide = (float)other->width - 0.5f, high = (float)other->height - 0.5f;
    const int columns = (int)other->width;
    const float ax = T[1] * row + T[2], ay = T[5] * row + T[6], az = T[9] * row + T[10];
    const double cx = own->cx, by = own->focal;
    for (int x = 0; x < (int)own->width; x++) {
        const float column = (float)(((double)x - cx) / by), d = depth[x];
        const float px = (T[0] * column + ax) * d + T[3], py = (T[4] * column + ay) * d + T[7];
        const float pz = (T[8] * column + az) * d + T[11];
        const int front = d > 0.0f && pz > 1e-6f * d;
        const float scale = focal / (front ? pz : 1.0f);
        const float u = px * scale + ox, v = py * scale + oy;
        const int inside = front & (u > -0.5f) & (v > -0.5f) & (u < wide) & (v < high);
        // Between -0.5 and the side: the sum with 1.5 * 2^23 rounds to the nearest, halves to even, as rint does.
        const float magic = 12582912.0f;
        const int column_there = (int)(((inside ? u : 0.0f) + magic) - magic);
        const int row_there = (int)(((inside ? v : 0.0f) + magic) - magic);
        place[x] = inside ? row_there * columns + column_there : -1;
        z[x] = pz;
    }
}
