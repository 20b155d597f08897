// Depth that one keyframe gives another (see depth_maps.py, which documents the method and does the same in NumPy).

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../geometry/kernels.h"

#define REACH 3 // of patches: half their side
#define SIDE (2 * REACH + 1)

// A keyframe: `depth` and `confidence` (H, W), colours (H W, 3): denoised, and their range around each pixel, which only
// the keyframe that takes depth needs.
struct keyframe {
    struct pinhole camera;
    const float *depth, *confidence;
    const uint8_t *smooth, *dark, *light;
};

struct sharing {
    double range, behind, share, most_off, noise;
};

// One row of colours that landed (`a`) and of those that are there (`b`), where anything landed (`n`); 0 elsewhere.
struct row {
    int16_t *n, *a[3], *b[3];
};

// Sums of rows over the height of a patch, also of squares and of squared differences, with REACH more on either side.
struct columns {
    struct row of;
    int32_t *squares, *differences;
};

static inline struct row row_at(int16_t *memory, long width)
{
    return (struct row){memory,
                        {memory + width, memory + 2 * width, memory + 3 * width},
                        {memory + 4 * width, memory + 5 * width, memory + 6 * width}};
}

// The rows of a patch beyond the image are mirrored at its border, as in OpenCV.
static inline long mirrored(long k, long count)
{
    return k < 0 ? -k : k >= count ? 2 * count - 2 - k : k;
}

// The colours of a row, where pixels `from` (W) of a keyframe landed, -1 for none.
static inline void fill_row(const struct row *row, long width, const int *from, const uint8_t *landed,
                            const uint8_t *there)
{
    memset(row->n, 0, (size_t)(7 * width) * sizeof *row->n);
    for (long x = 0; x < width; x++) {
        if (from[x] < 0)
            continue;
        row->n[x] = 1;
        for (int c = 0; c < 3; c++)
            row->a[c][x] = landed[3L * from[x] + c], row->b[c][x] = there[3 * x + c];
    }
}

// One sum at a time: more cannot be told apart in memory, and would not be vectorised.
#define ADD(sums, value)                                                                                               \
    for (int x = 0; x < (int)width; x++)                                                                               \
        (sums)[REACH + x] += value;

FORCED static inline void add_row(const struct row *row, long width, int sign, const struct columns *sums)
{
    ADD(sums->of.n, (int16_t)(sign * row->n[x]))
    for (int c = 0; c < 3; c++) {
        const int16_t *a = row->a[c], *b = row->b[c];
        ADD(sums->of.a[c], (int16_t)(sign * a[x]))
        ADD(sums->of.b[c], (int16_t)(sign * b[x]))
        ADD(sums->squares, sign * (a[x] * a[x] + b[x] * b[x]))
        ADD(sums->differences, sign * (a[x] - b[x]) * (a[x] - b[x]))
    }
}

#define MIRROR(sums, width)                                                                                            \
    for (long rim = 1; rim <= REACH; rim++)                                                                            \
        (sums)[REACH - rim] = (sums)[REACH + rim], (sums)[REACH + (width)-1 + rim] = (sums)[REACH + (width)-1 - rim];
#define ACROSS(sums, x)                                                                                                \
    ((sums)[x] + (sums)[(x) + 1] + (sums)[(x) + 2] + (sums)[(x) + 3] + (sums)[(x) + 4] + (sums)[(x) + 5] + (sums)[(x) + 6])

// Whether the texture that landed around the pixels of a row is the `same` (W) as there.
FORCED static inline void compare_row(const struct columns *sums, long width, const struct sharing *how, uint8_t *same)
{
    const float most = (float)how->most_off, noise = (float)how->noise;
    MIRROR(sums->of.n, width)
    MIRROR(sums->squares, width)
    MIRROR(sums->differences, width)
    for (int c = 0; c < 3; c++) {
        MIRROR(sums->of.a[c], width)
        MIRROR(sums->of.b[c], width)
    }
    for (long x = 0; x < width; x++) {
        const int32_t n = ACROSS(sums->of.n, x);
        int32_t varies = n * ACROSS(sums->squares, x), off = n * ACROSS(sums->differences, x);
        for (int c = 0; c < 3; c++) {
            const int32_t a = ACROSS(sums->of.a[c], x), b = ACROSS(sums->of.b[c], x);
            varies -= a * a + b * b;
            off -= (a - b) * (a - b);
        }
        same[x] = (float)off < most * (float)varies + noise * (float)(n * n);
    }
}

// Which pixels of `shot` land in `other`: the last of the nearest, `from` (H, W) by place, -1 for none, and how far
// that is. `z` and `place`: of every pixel of `shot`, overwritten.
ROUNDED_CLONES static void land(const struct keyframe *shot, const struct keyframe *other, const float *T, float *z,
                                int *place, float *nearest, int *from)
{
    const long size = other->camera.height * other->camera.width, width = shot->camera.width;
    for (long k = 0; k < size; k++)
        nearest[k] = INFINITY, from[k] = -1;
    for (long y = 0; y < shot->camera.height; y++) {
        const long start = y * width;
        land_row(&shot->camera, &other->camera, T, y, shot->depth + start, z, place);
        for (long x = 0; x < width; x++)
            if (place[x] >= 0 && shot->confidence[start + x] > 1.0f && z[x] <= nearest[place[x]])
                nearest[place[x]] = z[x], from[place[x]] = (int)(start + x);
    }
}

// Whether colours (3) lie in the range of those around a place, to `range` levels.
static inline int same_color(const uint8_t *color, const uint8_t *dark, const uint8_t *light, double range)
{
    int off = 0;
    for (int k = 0; k < 3; k++) {
        const int below = dark[k] - color[k], above = color[k] - light[k];
        off = below > off ? below : off;
        off = above > off ? above : off;
    }
    return off <= range;
}

// Removes `depth` (H, W) that lies `behind` that around it: it was seen through the gaps between nearer points.
// `closeness` (3, W + 2) is overwritten.
ROUNDED_CLONES static void remove_hidden(long height, long width, float behind, const float *original, float *depth,
                                         float *sure, float *closeness)
{
    for (long y = 0; y < height; y++) {
        float *most = closeness + 1;
        const long first = y > 0 ? y - 1 : 0, last = y + 1 < height ? y + 1 : y;
        for (long x = 0; x < width; x++)
            most[x] = 0.0f;
        for (long row = first; row <= last; row++)
            for (long x = 0; x < width; x++) {
                const float there = original[row * width + x], close = there > 0.0f ? 1.0f / there : 0.0f;
                most[x] = close > most[x] ? close : most[x];
            }
        most[-1] = most[width] = 0.0f;
        for (long x = 0; x < width; x++) {
            const float beside = most[x - 1] > most[x + 1] ? most[x - 1] : most[x + 1];
            const float close = beside > most[x] ? beside : most[x], there = original[y * width + x];
            const int keep = there > 0.0f && !(close * there > behind);
            depth[y * width + x] = keep ? there : 0.0f;
            sure[y * width + x] = keep ? sure[y * width + x] : 1.0f;
        }
    }
}

// Depth and confidence of a row where the texture is the `same`, and so are the colours.
static inline void share_row(const struct keyframe *shot, const struct keyframe *other, const struct sharing *how,
                             long start, const int *from, const float *nearest, const uint8_t *same, float *depth,
                             float *sure)
{
    for (long x = 0; x < other->camera.width; x++) {
        const long at = from[x], there = 3 * (start + x);
        depth[x] = 0.0f, sure[x] = 1.0f;
        if (at < 0 || !same[x])
            continue;
        if (!same_color(shot->smooth + 3 * at, other->dark + there, other->light + there, how->range))
            continue;
        const float ratio = shot->depth[at] / nearest[x], closer = ratio * ratio;
        const float gain = (float)how->share * (shot->confidence[at] - 1.0f);
        depth[x] = nearest[x];
        sure[x] = 1.0f + gain * (closer < 1.0f ? closer : 1.0f);
    }
}

// `depth` and confidence `sure` (H, W) of the pixels `from` (H, W) of `shot` that look like those of `other` where they
// landed. `wide`: memory for 7 (SIDE + 1) rows and 7 REACH times 2 more, all zero; `sums`: for two rows with margins, zero.
ROUNDED_CLONES static void share_alike(const struct keyframe *shot, const struct keyframe *other,
                                       const struct sharing *how, const int *from, const float *nearest, int16_t *wide,
                                       int32_t *sums, uint8_t *same, float *depth, float *sure)
{
    const long height = other->camera.height, width = other->camera.width, padded = width + 2 * REACH;
    const struct columns columns = {row_at(wide + 7 * SIDE * width, padded), sums, sums + padded};
    for (long y = -2 * REACH; y < height; y++) {
        const long below = y + REACH, start = y * width;
        const struct row new = row_at(wide + 7 * width * (mirrored(below, height) % SIDE), width);
        if (below >= 0 && below < height)
            fill_row(&new, width, from + below * width, shot->smooth, other->smooth + 3 * below * width);
        if (y < 0)
            continue;
        if (y == 0)
            for (long k = -REACH; k < REACH; k++) {
                const struct row first = row_at(wide + 7 * width * (mirrored(k, height) % SIDE), width);
                add_row(&first, width, 1, &columns);
            }
        add_row(&new, width, 1, &columns);
        compare_row(&columns, width, how, same);
        share_row(shot, other, how, start, from + start, nearest + start, same, depth + start, sure + start);
        const struct row old = row_at(wide + 7 * width * (mirrored(y - REACH, height) % SIDE), width);
        add_row(&old, width, -1, &columns);
    }
}

// `depth` and confidence `sure` (H, W) that `shot` gives for the pixels of `other`, at least SIDE in height and width.
// `T` (16): other_T_c. 0 if memory is short.
int share_depth(const struct keyframe *shot, const struct keyframe *other, const float *T, const struct sharing *how,
                float *depth, float *sure)
{
    const size_t width = (size_t)other->camera.width, size = (size_t)other->camera.height * width;
    const size_t given = (size_t)shot->camera.width, padded = width + 2 * REACH;
    float *z = malloc((given + size) * sizeof *z), *nearest = z + given;
    int *place = malloc((given + size) * sizeof *place), *from = place + given;
    int32_t *sums = calloc(2 * padded, sizeof *sums);
    int16_t *wide = calloc(7 * SIDE * width + 7 * padded, sizeof *wide);
    uint8_t *same = malloc(width);
    const int enough = z && place && sums && wide && same;
    if (enough) {
        land(shot, other, T, z, place, nearest, from);
        share_alike(shot, other, how, from, nearest, wide, sums, same, depth, sure);
        memcpy(nearest, depth, size * sizeof *depth);
        remove_hidden((long)(size / width), (long)width, (float)how->behind, nearest, depth, sure, (float *)sums);
    }
    free(z), free(place), free(sums), free(wide), free(same);
    return enough;
}
