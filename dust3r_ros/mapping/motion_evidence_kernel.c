// What one keyframe says about another (see motion_evidence.py, which documents the method and does the same in NumPy).

#include <stdint.h>
#include <stdlib.h>

#include "../geometry/kernels.h"

// A keyframe for comparison, (h, w) each, the colours (h, w, 3).
struct shot {
    struct pinhole camera;
    const float *depth, *sigma, *near;
    const uint8_t *color, *dark, *light;
};

// What is known of pixels (h, w) of the judged keyframe, and the doubts (h, w) of the other one.
struct notes {
    uint8_t *agree, *doubt;
    int32_t *first, *last;
};

struct limits {
    double apart, sigmas, alike, range;
    long common, sample;
};

// A pixel of one keyframe that lands on a known pixel of another.
struct candidate {
    int at, place;
    uint8_t hidden, same, before;
};

// `value` times `gain`, within a byte, rounded down.
FORCED static inline int toned(uint8_t value, double gain)
{
    const double found = value * gain;
    return found > 255.0 ? 255 : (int)found;
}

// How far a pixel's colours with `gain` (3) are `off` the range around another's, and how far `apart` from its own, in
// the worst channel.
FORCED static inline void compared(const struct shot *shot, const struct shot *other, const struct candidate *pixel,
                                   const double *gain, int *off, int *apart)
{
    *off = *apart = 0;
    for (int k = 0; k < 3; k++) {
        const long there = 3L * pixel->place + k;
        const int tone = toned(shot->color[3L * pixel->at + k], gain[k]);
        const int below = other->dark[there] - tone, above = tone - other->light[there];
        const int distance = abs(tone - other->color[there]);
        *off = below > *off ? below : *off;
        *off = above > *off ? above : *off;
        *apart = distance > *apart ? distance : *apart;
    }
}

// The value that would be at `k` if the counted bytes were sorted.
static int ranked(const long *counts, long k)
{
    int value = 0;
    for (long below = counts[0]; below <= k; below += counts[value])
        value++;
    return value;
}

// A quantile of counted bytes, interpolated as NumPy does.
static double quantile(const long *counts, long count, double share)
{
    const double at = (double)(count - 1) * share;
    const long k = (long)at;
    const double part = at - (double)k, low = ranked(counts, k), high = ranked(counts, k + 1 < count ? k + 1 : k);
    return part < 0.5 ? low + (high - low) * part : high - (high - low) * (1.0 - part);
}

// Which of the pixels look alike in both, by the pixels `same` (N) that show one surface: limits of `off` and `apart`,
// and the `gain` (3) of colours.
static void tolerances(const struct shot *shot, const struct shot *other, const struct candidate *pixels,
                       const int *same, long count, const struct limits *limits, double *gain, double *off, double *apart)
{
    const long every = count / limits->sample > 1 ? count / limits->sample : 1, used = (count + every - 1) / every;
    long counts[2][256];
    for (int k = 0; k < 3; k++) {
        for (int value = 0; value < 256; value++)
            counts[0][value] = counts[1][value] = 0;
        for (long n = 0; n < count; n += every) {
            counts[0][shot->color[3L * pixels[same[n]].at + k]]++;
            counts[1][other->color[3L * pixels[same[n]].place + k]]++;
        }
        double middle[2];
        for (int side = 0; side < 2; side++)
            middle[side] = 0.5 * (ranked(counts[side], (used - 1) / 2) + ranked(counts[side], used / 2));
        gain[k] = middle[1] / (middle[0] > 1.0 ? middle[0] : 1.0);
    }
    for (int value = 0; value < 256; value++)
        counts[0][value] = counts[1][value] = 0;
    for (long n = 0; n < count; n += every) {
        int one, two;
        compared(shot, other, pixels + same[n], gain, &one, &two);
        counts[0][one]++, counts[1][two]++;
    }
    const double found[2] = {quantile(counts[0], used, limits->alike), quantile(counts[1], used, limits->alike)};
    *off = found[0] > limits->range ? found[0] : limits->range;
    *apart = found[1] > limits->range ? found[1] : limits->range;
}

// The pixels of `shot` that land on known pixels of `other`, in order, and how their depths compare; returns how many.
ROUNDED_CLONES static long landed(const struct shot *shot, const struct shot *other, const float *T,
                                  const struct limits *limits, float *z, int *place, struct candidate *pixels)
{
    const float least = (float)limits->apart, sigmas = (float)limits->sigmas;
    long count = 0;
    for (long y = 0; y < shot->camera.height; y++) {
        const long start = y * shot->camera.width;
        land_row(&shot->camera, &other->camera, T, y, shot->depth + start, z, place);
        for (long x = 0; x < shot->camera.width; x++) {
            const int there = place[x];
            if (there < 0 || !(other->depth[there] > 0.0f))
                continue;
            const double a = other->sigma[there], b = shot->sigma[start + x];
            const float both = sigmas * (float)sqrt(a * a + b * b), beyond = 1.0f + (both > least ? both : least);
            const float depth = other->depth[there], further = z[x] * beyond, nearer = depth * beyond;
            pixels[count].at = (int)(start + x), pixels[count].place = there;
            pixels[count].hidden = nearer < z[x];
            pixels[count].same = nearer >= z[x] && depth <= further;
            pixels[count++].before = other->near[there] > further;
        }
    }
    return count;
}

// Agreement and doubt are counted in `notes` with the time `later`, that of `other` relative to that of `shot`. Pixels of
// `shot` (N) and, N further on, of `other` (N): `through` which the other sees with its own, and that would be `hidden`
// by the other's, with whether they look `like` these (N); `counts` (2) of both. 0 if memory is short.
int compare_shots(const struct shot *shot, const struct shot *other, const float *T, const struct limits *limits,
                  int32_t later, const struct notes *notes, long *through, long *hidden, uint8_t *like, long *counts)
{
    const long size = shot->camera.height * shot->camera.width, width = shot->camera.width;
    const long there = other->camera.height * other->camera.width;
    struct candidate *pixels = malloc(((size_t)size + 1) * sizeof *pixels);
    int *same = malloc(((size_t)size + (size_t)width + 1) * sizeof *same);
    float *z = malloc(((size_t)width + 1) * sizeof *z);
    uint8_t *doubted = calloc((size_t)there + 1, 1);
    const int enough = pixels && same && z && doubted;
    if (enough) {
        const long count = landed(shot, other, T, limits, z, same + size, pixels);
        long alike = 0, *with = through + size, *by = hidden + size;
        for (long n = 0; n < count; n++)
            if (pixels[n].same)
                same[alike++] = (int)n;
        double gain[3], most_off, most_apart;
        const int known = alike >= limits->common;
        if (known)
            tolerances(shot, other, pixels, same, alike, limits, gain, &most_off, &most_apart);
        counts[0] = counts[1] = 0;
        for (long n = 0; n < count; n++) {
            const struct candidate *pixel = pixels + n;
            if (!(pixel->hidden | pixel->same | pixel->before))
                continue;
            int off = 0, apart = 0;
            if (known)
                compared(shot, other, pixel, gain, &off, &apart);
            const int differs = known && off > most_off;
            if (pixel->same && !differs) {
                const long at = pixel->at;
                notes->agree[at]++;
                notes->first[at] = later < notes->first[at] ? later : notes->first[at];
                notes->last[at] = later > notes->last[at] ? later : notes->last[at];
            }
            if (pixel->before && differs) {
                through[counts[0]] = pixel->at;
                with[counts[0]++] = pixel->place;
            } else if (pixel->before && !doubted[pixel->place]) {
                doubted[pixel->place] = 1;
                notes->doubt[pixel->place]++;
            }
            if (pixel->hidden) {
                hidden[counts[1]] = pixel->at;
                by[counts[1]] = pixel->place;
                like[counts[1]++] = !known || apart <= most_apart;
            }
        }
    }
    free(pixels), free(same), free(z), free(doubted);
    return enough;
}
