// Flow: where it is confirmed, its start, and depth from it (see flow.py, which documents the methods and does the same
// in NumPy).

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../geometry/kernels.h"

#define REACH 3 // of patches: half their side
#define SIDE (2 * REACH + 1)
#define AREA (SIDE * SIDE)

struct evidence {
    double slope, difference, alike;
};

// Sums of columns over the height of a patch, with REACH more on either side.
struct columns {
    int32_t *a, *b, *ab, *aa, *bb, *slopes;
};

// An image, another seen through the flow, and slopes of the first, (H, W) each.
struct pair {
    long height, width;
    const uint8_t *a, *b;
    const int16_t *along_x, *along_y;
};

// One sum at a time: more cannot be told apart in memory, and would not be vectorised.
#define ADD(reach, sums, value)                                                                                        \
    for (int x = 0; x < (int)pair->width; x++)                                                                         \
        (sums)[(reach) + x] += value;

// Where row `y` begins; rows beyond the border are mirrored.
static inline long start_of(const struct pair *pair, long y)
{
    return (y < 0 ? -y : y >= pair->height ? 2 * pair->height - 2 - y : y) * pair->width;
}

FORCED static inline void add_row(const struct pair *pair, long y, int32_t sign, const struct columns *sums)
{
    const long start = start_of(pair, y);
    const uint8_t *a = pair->a + start, *b = pair->b + start;
    const int16_t *dx = pair->along_x + start, *dy = pair->along_y + start;
    ADD(REACH, sums->a, sign * a[x])
    ADD(REACH, sums->b, sign * b[x])
    ADD(REACH, sums->ab, sign * a[x] * b[x])
    ADD(REACH, sums->aa, sign * a[x] * a[x])
    ADD(REACH, sums->bb, sign * b[x] * b[x])
    ADD(REACH, sums->slopes, sign * (dx[x] * dx[x] + dy[x] * dy[x]))
}

static inline void mirror(int32_t *sums, long width, long reach)
{
    for (long k = 1; k <= reach; k++)
        sums[reach - k] = sums[reach + k], sums[reach + width - 1 + k] = sums[reach + width - 1 - k];
}

#define ACROSS(sums, x)                                                                                                \
    ((sums)[x] + (sums)[(x) + 1] + (sums)[(x) + 2] + (sums)[(x) + 3] + (sums)[(x) + 4] + (sums)[(x) + 5] + (sums)[(x) + 6])

// `error` (H, W) of flow that takes pixels to `there` (H, W, 2) and back: their distance from the start, infinite where
// images do not confirm it. Images have at least SIDE rows and columns. 0 if memory is short.
ROUNDED_CLONES int check_flow(const struct pair *pair, const struct evidence *least, const float *there, float *restrict error)
{
    const long width = pair->width, padded = width + 2 * REACH;
    int32_t *memory = calloc((size_t)(6 * padded), sizeof *memory);
    if (!memory)
        return 0;
    const struct columns sums = {memory,              memory + padded,     memory + 2 * padded,
                                 memory + 3 * padded, memory + 4 * padded, memory + 5 * padded};
    const float slope = (float)(least->slope * least->slope * AREA), difference = (float)(least->difference * AREA);
    const float alike = (float)least->alike, tiny = 1e-6f * AREA * AREA * AREA * AREA;
    for (long y = -REACH; y < REACH; y++)
        add_row(pair, y, 1, &sums);
    for (long y = 0; y < pair->height; y++) {
        add_row(pair, y + REACH, 1, &sums);
        for (int k = 0; k < 6; k++)
            mirror(memory + k * padded, width, REACH);
        for (int x = 0; x < (int)width; x++) {
            const int32_t a = ACROSS(sums.a, x), b = ACROSS(sums.b, x);
            const float both = (float)(AREA * ACROSS(sums.ab, x) - a * b);
            const float spread_a = (float)(AREA * ACROSS(sums.aa, x) - a * a);
            const float spread_b = (float)(AREA * ACROSS(sums.bb, x) - b * b), spread = spread_a * spread_b;
            const float off = (float)(a > b ? a - b : b - a);
            const int evident = ((float)ACROSS(sums.slopes, x) > slope) & (off < difference)
                                & (both > alike * sqrtf(spread > tiny ? spread : tiny));
            const float *back = there + 2 * (y * width + x);
            const double dx = back[0] - (float)x, dy = back[1] - (float)y;
            const float miss = (float)sqrt(dx * dx + dy * dy);
            error[y * width + x] = evident && miss < INFINITY ? miss : INFINITY;
        }
        add_row(pair, y - REACH, -1, &sums);
    }
    free(memory);
    return 1;
}

// Sums over columns of wide patches, with WIDE_REACH more on either side; `ya` and `yb`: weighted by the row.
struct wide_columns {
    int32_t *a, *b, *ab, *aa, *bb, *ya, *yb;
};

#define WIDE_REACH 7
#define WIDE_SIDE (2 * WIDE_REACH + 1)
#define WIDE_AREA (WIDE_SIDE * WIDE_SIDE)
#define MIDDLE 128 // grey: sums about it fit 32 bits

FORCED static inline void add_wide_row(const struct pair *pair, long y, int32_t sign, const struct wide_columns *sums)
{
    const long start = start_of(pair, y);
    const uint8_t *a = pair->a + start, *b = pair->b + start;
    const int32_t place = sign * (int32_t)y;
    ADD(WIDE_REACH, sums->a, sign * (a[x] - MIDDLE))
    ADD(WIDE_REACH, sums->b, sign * (b[x] - MIDDLE))
    ADD(WIDE_REACH, sums->ab, sign * (a[x] - MIDDLE) * (b[x] - MIDDLE))
    ADD(WIDE_REACH, sums->aa, sign * (a[x] - MIDDLE) * (a[x] - MIDDLE))
    ADD(WIDE_REACH, sums->bb, sign * (b[x] - MIDDLE) * (b[x] - MIDDLE))
    ADD(WIDE_REACH, sums->ya, place * (a[x] - MIDDLE))
    ADD(WIDE_REACH, sums->yb, place * (b[x] - MIDDLE))
}

// `across` (W): sums of patches, from those of columns; `tilt`: the same weighted by the column, or null.
FORCED static inline void add_across(const int32_t *sums, long width, int32_t *restrict across, int32_t *restrict tilt)
{
    memset(across, 0, (size_t)width * sizeof *across);
    for (int k = 0; k < WIDE_SIDE; k++)
        for (int x = 0; x < (int)width; x++)
            across[x] += sums[x + k];
    if (!tilt)
        return;
    memset(tilt, 0, (size_t)width * sizeof *tilt);
    for (int k = 0; k < WIDE_SIDE; k++)
        for (int x = 0; x < (int)width; x++)
            tilt[x] += (k - WIDE_REACH) * sums[x + k];
}

// Makes `error` (H, W) infinite where wide patches of both images, without a plane fitted to each, are not alike. Images have at least WIDE_SIDE rows and columns. 0 if memory is short.
ROUNDED_CLONES int check_shading(const struct pair *pair, const struct evidence *least, float *restrict error)
{
    const long width = pair->width, padded = width + 2 * WIDE_REACH;
    int32_t *memory = calloc((size_t)(7 * padded + 9 * width), sizeof *memory);
    if (!memory)
        return 0;
    const struct wide_columns sums = {
        memory, memory + padded, memory + 2 * padded, memory + 3 * padded, memory + 4 * padded, memory + 5 * padded,
        memory + 6 * padded,
    };
    int32_t *across[9];
    for (int k = 0; k < 9; k++)
        across[k] = memory + 7 * padded + k * width;
    const int32_t *a = across[0], *b = across[1], *ab = across[2], *aa = across[3], *bb = across[4];
    const int32_t *ya = across[5], *yb = across[6], *xa = across[7], *xb = across[8];
    const float alike = (float)least->alike, tiny = 1e-6f * WIDE_AREA * WIDE_AREA;
    // A patch's area over the sum of its pixels' squared distances, in columns or in rows, from its middle.
    const float tilted = 12.0f / (float)(WIDE_SIDE * WIDE_SIDE - 1);
    for (long y = -WIDE_REACH; y < WIDE_REACH; y++)
        add_wide_row(pair, y, 1, &sums);
    for (long y = 0; y < pair->height; y++) {
        add_wide_row(pair, y + WIDE_REACH, 1, &sums);
        for (int k = 0; k < 7; k++) {
            mirror(memory + k * padded, width, WIDE_REACH);
            add_across(memory + k * padded, width, across[k], k < 2 ? across[7 + k] : NULL);
        }
        for (int x = 0; x < (int)width; x++) {
            const float xa_ = (float)xa[x], xb_ = (float)xb[x];
            const float ya_ = (float)(ya[x] - (int32_t)y * a[x]), yb_ = (float)(yb[x] - (int32_t)y * b[x]);
            const float both = (float)(WIDE_AREA * ab[x] - a[x] * b[x]) - tilted * (xa_ * xb_ + ya_ * yb_);
            const float own = (float)(WIDE_AREA * aa[x] - a[x] * a[x]) - tilted * (xa_ * xa_ + ya_ * ya_);
            const float other = (float)(WIDE_AREA * bb[x] - b[x] * b[x]) - tilted * (xb_ * xb_ + yb_ * yb_);
            const float spread = (own > tiny ? own : tiny) * (other > tiny ? other : tiny);
            error[y * width + x] = both > alike * sqrtf(spread) ? error[y * width + x] : INFINITY;
        }
        add_wide_row(pair, y - WIDE_REACH, -1, &sums);
    }
    free(memory);
    return 1;
}

// A view a, and b_T_a: rotation by rows and translation, in single precision; the centre and focal of b.
struct views {
    long height, width;
    float focal_a, ax, ay, focal_b, bx, by, R[9], t[3];
};

// `target` (H, W, 2) in b of pixels with inverse depth `closeness` by their `label` (H, W), up to `reach` (2) from its
// centre; NaN behind it.
ROUNDED_CLONES void seed_targets(const struct views *views, const float *closeness, const int32_t *label,
                                 const float *reach, float *restrict target)
{
    const float *R = views->R, *t = views->t;
    for (int y = 0; y < (int)views->height; y++)
        for (int x = 0; x < (int)views->width; x++) {
            const long at = y * views->width + x;
            const float close = closeness[label[at]];
            const float rx = ((float)x - views->ax) / views->focal_a, ry = ((float)y - views->ay) / views->focal_a;
            const float px = R[0] * rx + R[1] * ry + R[2] + t[0] * close, py = R[3] * rx + R[4] * ry + R[5] + t[1] * close;
            const float pz = R[6] * rx + R[7] * ry + R[8] + t[2] * close, scale = views->focal_b / (pz > 0.0f ? pz : NAN);
            float u = px * scale, v = py * scale;
            u = u < -reach[0] ? -reach[0] : u > reach[0] ? reach[0] : u;
            v = v < -reach[1] ? -reach[1] : v > reach[1] ? reach[1] : v;
            target[2 * at] = u + views->bx, target[2 * at + 1] = v + views->by;
        }
}

// A match of a pixel in normalised coordinates of b, moved onto its epipolar line.
struct match {
    float far_x, far_y, far_z, x, y, epipolar;
};

FORCED static inline struct match moved(const struct views *views, int x, int y, const float *target)
{
    const float *R = views->R, *t = views->t;
    const float rx = ((float)x - views->ax) / views->focal_a, ry = ((float)y - views->ay) / views->focal_a;
    const float far_x = R[0] * rx + (R[1] * ry + R[2]), far_y = R[3] * rx + (R[4] * ry + R[5]);
    const float far_z = R[6] * rx + (R[7] * ry + R[8]);
    const float bx = (target[0] - views->bx) / views->focal_b, by = (target[1] - views->by) / views->focal_b;
    const float line_x = t[1] * far_z - t[2] * far_y, line_y = t[2] * far_x - t[0] * far_z;
    const float line_z = t[0] * far_y - t[1] * far_x, square = line_x * line_x + line_y * line_y;
    const float norm = square > 1e-20f ? square : 1e-20f, miss = line_x * bx + line_y * by + line_z, step = miss / norm;
    const float epipolar = fabsf(miss) / sqrtf(norm) * views->focal_b;
    return (struct match){far_x, far_y, far_z, bx - line_x * step, by - line_y * step, epipolar};
}

// Which pixels are `matched` (H, W), 0 or 1, to `most` pixels, and their squared distance `squares` (H, W) from their
// epipolar lines, 0 elsewhere.
ROUNDED_CLONES void match_lines(const struct views *views, const float *target, const float *error, double most,
                                float *restrict matched, float *restrict squares)
{
    const float limit = (float)most;
    for (int y = 0; y < (int)views->height; y++)
        for (int x = 0; x < (int)views->width; x++) {
            const long at = y * views->width + x;
            const struct match match = moved(views, x, y, target + 2 * at);
            const int good = (error[at] < limit) & (match.epipolar < limit);
            matched[at] = good ? 1.0f : 0.0f;
            squares[at] = good ? match.epipolar * match.epipolar : 0.0f;
        }
}

struct precision {
    double reference, best, most, least_sine;
};

// `depth` and `confidence` (H, W) of the `matched` pixels; `around` and `share` (H, W): means of their squares and of
// `matched` around them.
ROUNDED_CLONES void triangulate_flow(const struct views *views, const float *target, const float *error,
                                     const float *matched, const float *around, const float *share,
                                     const struct precision *how, float *restrict depth, float *restrict confidence)
{
    const float *t = views->t, leverage = (float)how->reference, best = (float)how->best, most = (float)how->most;
    const float least = (float)how->least_sine;
    for (int y = 0; y < (int)views->height; y++)
        for (int x = 0; x < (int)views->width; x++) {
            const long at = y * views->width + x;
            const struct match m = moved(views, x, y, target + 2 * at);
            // z_a far + t = z_b (x, y, 1): two equations for z_a, solved along the line's direction
            const float along_x = m.x * m.far_z - m.far_x, along_y = m.y * m.far_z - m.far_y;
            const float square = along_x * along_x + along_y * along_y;
            const float found = ((t[0] - m.x * t[2]) * along_x + (t[1] - m.y * t[2]) * along_y)
                                / (square > 1e-20f ? square : 1e-20f);
            const float behind = found * m.far_z + t[2], twist = m.far_x * m.y - m.far_y * m.x;
            const float lengths = (m.far_x * m.far_x + m.far_y * m.far_y + m.far_z * m.far_z)
                                  * (m.x * m.x + m.y * m.y + 1.0f);
            const float angle = sqrtf((square + twist * twist) / lengths);
            const float mean = around[at] / (share[at] > 1e-6f ? share[at] : 1e-6f);
            const float variance = best + 2.0f * mean + (error[at] * error[at] + m.epipolar * m.epipolar);
            const float scaled = leverage * angle, gain = scaled * scaled / variance;
            const float sure = 1.0f + (gain < most ? gain : most);
            const int good = (matched[at] > 0.0f) & (found > 0.0f) & (found < INFINITY) & (behind > 0.0f)
                             & (angle > least);
            depth[at] = good ? found : 0.0f;
            confidence[at] = good ? sure : 1.0f;
        }
}

#define MOTIONS 32.0f // steps per pixel
#define ERRORS 64.0f

// Flow in five bytes per pixel: `motion` (H, W, 2) within `reach` steps and `error`, 255 for any beyond use.
ROUNDED_CLONES void pack_flow(long height, long width, int reach, const float *target, const float *error,
                              int16_t *restrict motion, uint8_t *restrict packed)
{
    const float most = (float)reach;
    for (long y = 0; y < height; y++)
        for (int x = 0; x < (int)width; x++) {
            const long at = y * width + x;
            const float u = rintf((target[2 * at] - (float)x) * MOTIONS), v = rintf((target[2 * at + 1] - (float)y) * MOTIONS);
            const float scaled = error[at] * ERRORS, rounded = rintf(scaled < 255.0f ? scaled : 255.0f);
            const int far = (fabsf(u) > most) | (fabsf(v) > most);
            motion[2 * at] = (int16_t)(u < -most ? -most : u > most ? most : u);
            motion[2 * at + 1] = (int16_t)(v < -most ? -most : v > most ? most : v);
            packed[at] = (uint8_t)(int)(far ? 255.0f : rounded);
        }
}

// The `target` and `error` that were packed.
ROUNDED_CLONES void unpack_flow(long height, long width, const int16_t *motion, const uint8_t *packed,
                                float *restrict target, float *restrict error)
{
    for (long y = 0; y < height; y++)
        for (int x = 0; x < (int)width; x++) {
            const long at = y * width + x;
            target[2 * at] = (float)x + (float)motion[2 * at] / MOTIONS;
            target[2 * at + 1] = (float)y + (float)motion[2 * at + 1] / MOTIONS;
            error[at] = packed[at] == 255 ? INFINITY : (float)packed[at] / ERRORS;
        }
}
