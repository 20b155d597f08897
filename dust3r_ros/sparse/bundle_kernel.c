// The inner loops of bundle_adjustment.py: normal equations with the points eliminated, the step of the points, and
// points settled. schur.py and bundle_problem.py explain the sums and do the same in NumPy.
//
// Observations are sorted by point, those of one point by pose; `starts` (P + 1): where each point's begin. A call
// does the points from `first` up to `end`; sums of several calls add up. The first `free` of the poses move. Points
// are (3, P), other arrays have their components last.

#include <math.h>
#include <string.h>

#include "../geometry/kernels.h"

#define MIN_DEPTH 1e-6
#define BEHIND_PX 100.0
#define LOADING 1e-9
#define KINDS 6
#define LENS_STEPS 40 // as in lens.py
#define LENS_EXACT 1e-7 // a step of Newton; the error left is about its square

// A row of six: as registers hold them, wherever they lie.
typedef double Four __attribute__((vector_size(32), aligned(8), may_alias));
typedef double Two __attribute__((vector_size(16), aligned(8), may_alias));

typedef struct {
    Four a;
    Two b;
} Six;

static inline FORCED Six six(const double *from) {
    const Six row = {*(const Four *)from, *(const Two *)(from + 4)};
    return row;
}

static inline FORCED void put(Six row, double *to) {
    *(Four *)to = row.a, *(Two *)(to + 4) = row.b;
}

static inline FORCED Six scaled(double by, Six row) {
    row.a *= by, row.b *= by;
    return row;
}

static inline FORCED Six plus(Six row, double by, Six other) {
    row.a += by * other.a, row.b += by * other.b;
    return row;
}

typedef struct {
    long first, end, points, free, unknowns;
    const long *starts;   // (P + 1)
    const int *pose;      // (M)
    const double *offset; // (M, 2) pixels from the centre
    const double *spread; // (M) by which the loss is wider
    const int *camera;    // (C) of each pose
    const double *radius; // (F) of the lens
    const int *unknown;   // (F, 6) which unknown each intrinsic is, -1: held
    double width, sigma;  // of the loss
} Observations;

typedef struct {
    const double *rotation;   // (C, 3, 3) from w into the camera
    const double *center;     // (C, 3)
    const double *intrinsics; // (F, 6): focal in pixels, radial terms, center in radii
    const double *turning;    // (F) radius beyond which a lens is continued by a straight line
    const double *points;     // (3, P)
} State;

#define LANES 32 // observations side by side: a processor computes some at a time
#define TOGETHER 64 // points that are settled together

typedef struct {
    long first, count;
    double ray[3][LANES], x[LANES], y[LANES], z[LANES], error[2][LANES], r[LANES], cost[LANES], root[LANES];
    double focal[LANES], radius[LANES], radial[3][LANES], turning[LANES], center[2][LANES];
    double shown[2][LANES], outward[2][LANES], along[LANES], across[LANES]; // by the lens, as in Fit
    double offset[2][LANES], width[LANES], sigma[LANES];
    int valid[LANES], camera[LANES], pose[LANES];
} Seen;

static inline FORCED double most(double a, double b) {
    return a > b ? a : b; // unlike fmax, no call
}

static inline FORCED double least(double a, double b) {
    return a < b ? a : b;
}

static inline FORCED double divisor_of(double first, double second, double third, double square) { // lens.py, _divisor
    return 1.0 - (first + (second + third * square) * square) * square;
}

// The radius at which a lens shows what an ideal one shows at `within` (lens.py, shown_radius), for all lanes;
// `further`: whether any has more than one radial term, which takes Newton's steps.
static inline FORCED void bend(const Seen *o, const double *within, int further, double *found) {
    double low[LANES], high[LANES], moved = 1.0;
    for (int i = 0; i < LANES; i++) {
        const double first = o->radial[0][i];
        const double alone = 2.0 * within[i] / (1.0 + sqrt(most(1.0 + 4.0 * first * within[i] * within[i], 0.0)));
        found[i] = least(alone, o->turning[i]), low[i] = 0.0, high[i] = o->turning[i];
    }
    for (int n = 0; further && n < LENS_STEPS && moved > LENS_EXACT; n++) {
        moved = 0.0;
        for (int i = 0; i < LANES; i++) {
            const double first = o->radial[0][i], second = o->radial[1][i], third = o->radial[2][i];
            const double square = found[i] * found[i];
            const double slope = 2.0 * first + (4.0 * second + 6.0 * third * square) * square;
            const double off = found[i] - within[i] * divisor_of(first, second, third, square);
            low[i] = off < 0.0 ? found[i] : low[i], high[i] = off > 0.0 ? found[i] : high[i];
            const double newton = found[i] - off / (1.0 + within[i] * found[i] * slope);
            const double better = newton >= low[i] && newton <= high[i] ? newton : 0.5 * (low[i] + high[i]);
            moved = most(fabs(better - found[i]), moved);
            found[i] = better;
        }
    }
}

// From where a pinhole would show the points to where lenses show them, and by how much they enlarge there.
static inline FORCED void show(Seen *o, int further) {
    double wanted[LANES], within[LANES], found[LANES];
    for (int i = 0; i < LANES; i++) {
        const double turning = o->turning[i];
        const double widest = divisor_of(o->radial[0][i], o->radial[1][i], o->radial[2][i], turning * turning);
        wanted[i] = sqrt(o->shown[0][i] * o->shown[0][i] + o->shown[1][i] * o->shown[1][i]);
        within[i] = least(wanted[i], turning / widest);
    }
    bend(o, within, further, found);
    for (int i = 0; i < LANES; i++) {
        const double first = o->radial[0][i], second = o->radial[1][i], third = o->radial[2][i];
        const double square = found[i] * found[i], divisor = divisor_of(first, second, third, square);
        const double away = 1.0 / most(wanted[i], 1e-12);
        const double rise = 1.0 + (first + (3.0 * second + 5.0 * third * square) * square) * square;
        const double along = divisor * divisor / rise;
        const double across = (found[i] + along * (wanted[i] - within[i])) * away;
        o->along[i] = along;
        o->across[i] = wanted[i] > 0.0 ? across : 1.0;
        for (int k = 0; k < 2; k++) o->outward[k][i] = o->shown[k][i] * away, o->shown[k][i] *= o->across[i];
    }
}

// A change (2) of the position in a pinhole's image, as the lens shows it.
static inline FORCED void through_lens(const Seen *o, int i, double *change) {
    const double part = (o->along[i] - o->across[i]) * (o->outward[0][i] * change[0] + o->outward[1][i] * change[1]);
    for (int k = 0; k < 2; k++) change[k] = o->across[i] * change[k] + part * o->outward[k][i];
}

// What the lanes are computed from; `p`: the point of observation `m`, `end`: the first one left out, `points`: (3, P).
// Lanes beyond the last observation repeat it. Returns 0 where no lens bends, 2 where one has more than one radial
// term, else 1.
static inline FORCED int gather(
    const Observations *s, const State *state, const double *points, long m, long p, long end, Seen *o
) {
    const long last = s->starts[end] - 1;
    int lens = 0;
    o->first = m, o->count = last + 1 - m < LANES ? last + 1 - m : LANES;
    for (int i = 0; i < LANES; i++) {
        const long n = m + i < last ? m + i : last;
        while (s->starts[p + 1] <= n) p++;
        const int pose = s->pose[n], camera = s->camera[pose];
        const double *R = state->rotation + 9 * pose, *c = state->center + 3 * pose;
        const double *own = state->intrinsics + KINDS * camera;
        double X[3], ray[3];
        for (int k = 0; k < 3; k++) o->ray[k][i] = ray[k] = points[k * s->points + p] - c[k];
        for (int k = 0; k < 3; k++) X[k] = R[3 * k] * ray[0] + R[3 * k + 1] * ray[1] + R[3 * k + 2] * ray[2];
        o->x[i] = X[0], o->y[i] = X[1], o->z[i] = X[2];
        o->pose[i] = pose, o->camera[i] = camera;
        o->focal[i] = own[0], o->radius[i] = s->radius[camera], o->turning[i] = state->turning[camera];
        for (int k = 0; k < 3; k++) o->radial[k][i] = own[1 + k];
        for (int k = 0; k < 2; k++) o->center[k][i] = own[4 + k], o->offset[k][i] = s->offset[2 * n + k];
        o->width[i] = s->width * s->spread[n], o->sigma[i] = s->sigma * s->spread[n];
        if (own[2] != 0.0 || own[3] != 0.0) lens = 2;
        if (own[1] != 0.0 && !lens) lens = 1;
    }
    return lens;
}

// The lane of observation `m` of point `p`; where it is not among those seen, they are filled from it on.
static inline FORCED int see(
    const Observations *s, const State *state, const double *points, long m, long p, long end, Seen *o
) {
    if (m >= o->first && m < o->first + o->count) return (int)(m - o->first);
    const int lens = gather(s, state, points, m, p, end, o);
    for (int i = 0; i < LANES; i++) {
        o->valid[i] = o->z[i] > MIN_DEPTH;
        const double z = o->z[i] > MIN_DEPTH ? o->z[i] : 1.0, scale = o->focal[i] / o->radius[i];
        o->z[i] = z, o->x[i] /= z, o->y[i] /= z;
        o->along[i] = o->across[i] = 1.0, o->outward[0][i] = o->outward[1][i] = 0.0;
        o->shown[0][i] = scale * o->x[i], o->shown[1][i] = scale * o->y[i];
    }
    if (lens) show(o, lens > 1);
    for (int i = 0; i < LANES; i++) {
        for (int k = 0; k < 2; k++)
            o->error[k][i] = o->radius[i] * (o->shown[k][i] + o->center[k][i]) - o->offset[k][i];
        const double away = sqrt(o->error[0][i] * o->error[0][i] + o->error[1][i] * o->error[1][i]);
        const double r = o->valid[i] ? away : BEHIND_PX, within = least(r, o->width[i]), sharp = 1.0 / o->sigma[i];
        const double root = sqrt(least(o->width[i] / most(r, 1e-12), 1.0)) * sharp;
        o->r[i] = r;
        o->root[i] = o->valid[i] ? root : 0.0; // of the weight
        o->cost[i] = within * (r - 0.5 * within) * sharp * sharp;
    }
    return 0;
}

// Derivative (2, 3) of the weighted error with respect to the point.
static inline FORCED void slope_of(const State *state, const Seen *o, int i, double slope[2][3]) {
    const double scale = o->root[i] * o->focal[i] / o->z[i], *R = state->rotation + 9 * o->pose[i];
    for (int k = 0; k < 3; k++) {
        double change[2] = {scale * (R[k] - o->x[i] * R[6 + k]), scale * (R[3 + k] - o->y[i] * R[6 + k])};
        through_lens(o, i, change);
        slope[0][k] = change[0], slope[1][k] = change[1];
    }
}

// Lower triangular G (3, 3): G^T G is the inverse of V with its diagonal damped.
static inline FORCED void whitening(const double V[3][3], double damping, double G[9]) {
    const double loading = 1e-12 + LOADING * (V[0][0] + V[1][1] + V[2][2]);
    const double d0 = V[0][0] * (1.0 + damping) + loading, d1 = V[1][1] * (1.0 + damping) + loading;
    const double d2 = V[2][2] * (1.0 + damping) + loading;
    const double a = 1.0 / sqrt(d0), l10 = V[1][0] * a, l20 = V[2][0] * a;
    const double b = 1.0 / sqrt(most(d1 - l10 * l10, 1e-300)), l21 = (V[2][1] - l20 * l10) * b;
    const double c = 1.0 / sqrt(most(d2 - l20 * l20 - l21 * l21, 1e-300));
    memset(G, 0, 9 * sizeof(double));
    G[0] = a, G[4] = b, G[8] = c;
    G[3] = -b * l10 * a;
    G[7] = -c * l21 * b;
    G[6] = -c * (l20 * a + l21 * G[3]);
}

// Errors (M) of a state, BEHIND_PX for points behind the camera, which are not `valid` (M); returns the cost.
CLONES double errors(const Observations *s, const State *state, double *r, unsigned char *valid) {
    double cost = 0.0;
    Seen o = {.count = 0};
    for (long p = s->first; p < s->end; p++)
        for (long m = s->starts[p]; m < s->starts[p + 1]; m++) {
            const int i = see(s, state, state->points, m, p, s->end, &o);
            r[m] = o.r[i], valid[m] = (unsigned char)o.valid[i];
            cost += o.cost[i];
        }
    return cost;
}

// Derivative (2) of the error with respect to an intrinsic.
static inline FORCED void intrinsic_slope(const Seen *o, int i, int kind, double slope[2]) {
    slope[0] = slope[1] = 0.0;
    if (kind == 0) {
        slope[0] = o->focal[i] * o->x[i], slope[1] = o->focal[i] * o->y[i];
        through_lens(o, i, slope);
    } else if (kind < 4) {
        const double square = o->shown[0][i] * o->shown[0][i] + o->shown[1][i] * o->shown[1][i];
        const double power = kind == 1 ? square : kind == 2 ? square * square : square * square * square;
        const double scale = -o->radius[i] * o->along[i] * power / (o->across[i] * o->across[i]);
        for (int k = 0; k < 2; k++) slope[k] = scale * o->shown[k][i];
    } else {
        slope[kind - 4] = o->radius[i];
    }
}

// The system with the points eliminated. All arrays start at zero except `Y` (M, 3, 6), `G` (P, 3, 3) and
// `y` (P, 1 + K, 3), from which the points are recovered: `S` (6 C, 6 C) of the free poses, lower half; `borders`
// (1 + K, 6 C), its right side and its blocks with the unknowns; `ff` (K, K) and the right side `bf` (K) of the
// unknowns before elimination, and `inner` (1 + K, 1 + K), what the elimination subtracts from these.
CLONES void reduce(
    const Observations *s, const State *state, double damping, double *S, double *borders, double *ff, double *bf,
    double *inner, double *Y, double *G, double *y
) {
    const long N = 6 * s->free, K = s->unknowns;
    Seen o = {.count = 0};
    for (long p = s->first; p < s->end; p++) {
        double V[3][3] = {{0}}, *yp = y + 3 * (1 + K) * p, *Gp = G + 9 * p;
        memset(yp, 0, 3 * (1 + K) * sizeof(double));
        for (long m = s->starts[p]; m < s->starts[p + 1]; m++) {
            double slope[2][3], J[2][6], shares[KINDS][2], e[2];
            int which[KINDS], shared = 0;
            const int lane = see(s, state, state->points, m, p, s->end, &o);
            const double root = o.root[lane];
            slope_of(state, &o, lane, slope);
            for (int a = 0; a < 2; a++) e[a] = root * o.error[a][lane];
            for (int i = 0; i < 3; i++) {
                for (int j = 0; j < 3; j++) V[i][j] += slope[0][i] * slope[0][j] + slope[1][i] * slope[1][j];
                yp[i] -= slope[0][i] * e[0] + slope[1][i] * e[1];
            }
            for (int kind = 0; kind < KINDS; kind++) {
                const int k = s->unknown[KINDS * o.camera[lane] + kind];
                if (k < 0) continue;
                double *share = shares[shared];
                intrinsic_slope(&o, lane, kind, share);
                which[shared++] = k;
                share[0] *= root, share[1] *= root;
                bf[k] -= share[0] * e[0] + share[1] * e[1];
                for (int i = 0; i < 3; i++) yp[3 * (1 + k) + i] += share[0] * slope[0][i] + share[1] * slope[1][i];
            }
            for (int a = 0; a < shared; a++)
                for (int b = 0; b < shared; b++)
                    ff[which[a] * K + which[b]] += shares[a][0] * shares[b][0] + shares[a][1] * shares[b][1];
            const int pose = o.pose[lane];
            if (pose >= s->free) continue;
            // A shift of the center moves the ray back; a rotation v about it moves it by v x ray.
            const double ray[3] = {o.ray[0][lane], o.ray[1][lane], o.ray[2][lane]};
            for (int a = 0; a < 2; a++) {
                for (int i = 0; i < 3; i++) J[a][i] = -slope[a][i];
                J[a][3] = ray[1] * slope[a][2] - ray[2] * slope[a][1];
                J[a][4] = ray[2] * slope[a][0] - ray[0] * slope[a][2];
                J[a][5] = ray[0] * slope[a][1] - ray[1] * slope[a][0];
            }
            double *own = S + 6 * pose * (N + 1), *border = borders + 6 * pose, *W = Y + 18 * m;
            const Six J0 = six(J[0]), J1 = six(J[1]);
            for (int i = 0; i < 6; i++) put(plus(plus(six(own + i * N), J[0][i], J0), J[1][i], J1), own + i * N);
            put(plus(plus(six(border), -e[0], J0), -e[1], J1), border);
            for (int a = 0; a < shared; a++) {
                double *with = border + (1 + which[a]) * N;
                put(plus(plus(six(with), shares[a][0], J0), shares[a][1], J1), with);
            }
            for (int i = 0; i < 3; i++) put(plus(scaled(slope[0][i], J0), slope[1][i], J1), W + 6 * i);
        }
        whitening((const double(*)[3])V, damping, Gp);
        for (long f = 0; f <= K; f++) {
            double *v = yp + 3 * f;
            v[2] = Gp[6] * v[0] + Gp[7] * v[1] + Gp[8] * v[2];
            v[1] = Gp[3] * v[0] + Gp[4] * v[1];
            v[0] = Gp[0] * v[0];
        }
        for (long a = 0; a <= K; a++)
            for (long b = 0; b <= K; b++)
                inner[a * (1 + K) + b] += yp[3 * a] * yp[3 * b] + yp[3 * a + 1] * yp[3 * b + 1] + yp[3 * a + 2] * yp[3 * b + 2];
    }
    for (long i = 0; i < N; i++) S[i * (N + 1)] += damping * S[i * (N + 1)] + (s->first ? 0.0 : 1e-9);
    for (long p = s->first; p < s->end; p++) {
        const double *yp = y + 3 * (1 + K) * p, *Gp = G + 9 * p;
        for (long m = s->starts[p]; m < s->starts[p + 1] && s->pose[m] < s->free; m++) {
            double *Ym = Y + 18 * m, *border = borders + 6 * s->pose[m];
            const Six W0 = six(Ym), W1 = six(Ym + 6), W2 = six(Ym + 12), Y0 = scaled(Gp[0], W0);
            const Six Y1 = plus(scaled(Gp[3], W0), Gp[4], W1), Y2 = plus(plus(scaled(Gp[6], W0), Gp[7], W1), Gp[8], W2);
            put(Y0, Ym), put(Y1, Ym + 6), put(Y2, Ym + 12);
            for (long f = 0; f <= K; f++) {
                const double *v = yp + 3 * f;
                put(plus(plus(plus(six(border + f * N), -v[0], Y0), -v[1], Y1), -v[2], Y2), border + f * N);
            }
            for (long n = s->starts[p]; n <= m; n++) {
                const double *Yn = Y + 18 * n;
                const Six N0 = six(Yn), N1 = six(Yn + 6), N2 = six(Yn + 12);
                double *row = S + 6 * s->pose[m] * N + 6 * s->pose[n];
                for (int i = 0; i < 6; i++, row += N)
                    put(plus(plus(plus(six(row), -Ym[i], N0), -Ym[6 + i], N1), -Ym[12 + i], N2), row);
            }
        }
    }
}

// Step (3, P) of the points that goes with a step of the free poses (C, 6) and the unknowns (K).
CLONES void back(
    const Observations *s, const double *Y, const double *G, const double *y, const double *poses, const double *unknowns,
    double *step
) {
    const long K = s->unknowns;
    for (long p = s->first; p < s->end; p++) {
        const double *yp = y + 3 * (1 + K) * p, *Gp = G + 9 * p;
        double v[3] = {yp[0], yp[1], yp[2]};
        for (long k = 0; k < K; k++)
            for (int i = 0; i < 3; i++) v[i] -= yp[3 * (1 + k) + i] * unknowns[k];
        for (long m = s->starts[p]; m < s->starts[p + 1] && s->pose[m] < s->free; m++) {
            const double *Ym = Y + 18 * m, *pose = poses + 6 * s->pose[m];
            for (int i = 0; i < 3; i++)
                for (int j = 0; j < 6; j++) v[i] -= Ym[6 * i + j] * pose[j];
        }
        step[p] = Gp[0] * v[0] + Gp[3] * v[1] + Gp[6] * v[2];
        step[s->points + p] = Gp[4] * v[1] + Gp[7] * v[2];
        step[2 * s->points + p] = Gp[8] * v[2];
    }
}

// One Gauss-Newton step of every point on its own, to `moved` (3, P); a point that would get worse stays. Returns the
// new cost.
CLONES double settle(const Observations *s, const State *state, double *moved) {
    double total = 0.0, before[TOGETHER];
    Seen o = {.count = 0};
    for (long low = s->first; low < s->end; low += TOGETHER) {
        const long high = low + TOGETHER < s->end ? low + TOGETHER : s->end;
        o.count = 0;
        for (long p = low; p < high; p++) {
            double V[3][3] = {{0}}, pull[3] = {0}, G[9], v[3], cost = 0.0;
            for (long m = s->starts[p]; m < s->starts[p + 1]; m++) {
                double slope[2][3];
                const int lane = see(s, state, state->points, m, p, high, &o);
                cost += o.cost[lane];
                slope_of(state, &o, lane, slope);
                for (int i = 0; i < 3; i++) {
                    for (int j = 0; j < 3; j++) V[i][j] += slope[0][i] * slope[0][j] + slope[1][i] * slope[1][j];
                    pull[i] -= o.root[lane] * (slope[0][i] * o.error[0][lane] + slope[1][i] * o.error[1][lane]);
                }
            }
            before[p - low] = cost;
            whitening((const double(*)[3])V, 0.0, G);
            v[0] = G[0] * pull[0];
            v[1] = G[3] * pull[0] + G[4] * pull[1];
            v[2] = G[6] * pull[0] + G[7] * pull[1] + G[8] * pull[2];
            const double step[3] = {G[0] * v[0] + G[3] * v[1] + G[6] * v[2], G[4] * v[1] + G[7] * v[2], G[8] * v[2]};
            for (int i = 0; i < 3; i++) moved[i * s->points + p] = state->points[i * s->points + p] + step[i];
        }
        o.count = 0;
        for (long p = low; p < high; p++) {
            double after = 0.0;
            for (long m = s->starts[p]; m < s->starts[p + 1]; m++)
                after += o.cost[see(s, state, moved, m, p, high, &o)];
            const int worse = after > before[p - low];
            for (int i = 0; worse && i < 3; i++) moved[i * s->points + p] = state->points[i * s->points + p];
            total += worse ? before[p - low] : after;
        }
    }
    return total;
}
