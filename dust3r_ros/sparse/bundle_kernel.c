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

typedef struct {
    double ray[3], x, y, z, focal, error[2], r, cost, width, sigma;
    double shown[2], outward[2], along, across, radius; // by the lens, as in Fit
    int valid, camera, pose;
    const double *rotation;
} Seen;

static inline FORCED double most(double a, double b) {
    return a > b ? a : b; // unlike fmax, no call
}

static inline FORCED double divisor_of(const double *radial, double square) { // lens.py, _divisor
    return 1.0 - (radial[0] + (radial[1] + radial[2] * square) * square) * square;
}

// Where the lens shows the point, and by how much it enlarges there (lens.py, shown_radius).
static inline FORCED void show(Seen *o, const double *intrinsics, double turning) {
    const double *radial = intrinsics + 1, first = radial[0], second = radial[1], third = radial[2];
    const double scale = o->focal / o->radius;
    const double ideal[2] = {scale * o->x, scale * o->y};
    o->along = o->across = 1.0, o->outward[0] = o->outward[1] = 0.0;
    if (first != 0.0 || second != 0.0 || third != 0.0) {
        const double wanted = sqrt(ideal[0] * ideal[0] + ideal[1] * ideal[1]);
        const double end = turning / divisor_of(radial, turning * turning);
        const double within = wanted < end ? wanted : end;
        double found = 2.0 * within / (1.0 + sqrt(most(1.0 + 4.0 * first * within * within, 0.0)));
        double low = 0.0, high = turning;
        if (found > turning) found = turning;
        for (int n = 0; (second != 0.0 || third != 0.0) && n < LENS_STEPS; n++) {
            const double square = found * found;
            const double bend = 2.0 * first + (4.0 * second + 6.0 * third * square) * square;
            const double off = found - within * divisor_of(radial, square);
            if (off < 0.0) low = found;
            if (off > 0.0) high = found;
            double better = found - off / (1.0 + within * found * bend);
            if (!(better >= low && better <= high)) better = 0.5 * (low + high);
            const double moved = fabs(better - found);
            found = better;
            if (!(moved > LENS_EXACT)) break;
        }
        const double square = found * found, divisor = divisor_of(radial, square);
        o->along = divisor * divisor / (1.0 + (first + (3.0 * second + 5.0 * third * square) * square) * square);
        found += o->along * (wanted - within);
        if (wanted > 0.0) {
            o->across = found / (wanted > 1e-12 ? wanted : 1e-12);
            for (int i = 0; i < 2; i++) o->outward[i] = ideal[i] / (wanted > 1e-12 ? wanted : 1e-12);
        }
    }
    for (int i = 0; i < 2; i++) o->shown[i] = o->across * ideal[i];
}

// A change (2) of the position in a pinhole's image, as the lens shows it.
static inline FORCED void through_lens(const Seen *o, double *change) {
    const double part = (o->along - o->across) * (o->outward[0] * change[0] + o->outward[1] * change[1]);
    for (int i = 0; i < 2; i++) change[i] = o->across * change[i] + part * o->outward[i];
}

static inline FORCED void see(const Observations *s, const State *state, long m, const double *point, Seen *o) {
    const int pose = s->pose[m], camera = s->camera[pose];
    const double *R = state->rotation + 9 * pose, *c = state->center + 3 * pose;
    const double *intrinsics = state->intrinsics + KINDS * camera, *offset = s->offset + 2 * m;
    double X[3];
    for (int i = 0; i < 3; i++) o->ray[i] = point[i] - c[i];
    for (int i = 0; i < 3; i++) X[i] = R[3 * i] * o->ray[0] + R[3 * i + 1] * o->ray[1] + R[3 * i + 2] * o->ray[2];
    o->pose = pose, o->camera = camera, o->rotation = R;
    o->valid = X[2] > MIN_DEPTH;
    o->z = o->valid ? X[2] : 1.0;
    o->x = X[0] / o->z, o->y = X[1] / o->z;
    o->focal = intrinsics[0], o->radius = s->radius[camera];
    show(o, intrinsics, state->turning[camera]);
    for (int i = 0; i < 2; i++) o->error[i] = o->radius * (o->shown[i] + intrinsics[4 + i]) - offset[i];
    o->r = o->valid ? sqrt(o->error[0] * o->error[0] + o->error[1] * o->error[1]) : BEHIND_PX;
    o->width = s->width * s->spread[m], o->sigma = s->sigma * s->spread[m];
    const double within = o->r < o->width ? o->r : o->width;
    o->cost = within * (o->r - 0.5 * within) / (o->sigma * o->sigma);
}

static inline FORCED double root_weight(const Seen *o) {
    if (!o->valid) return 0.0;
    const double part = o->width / (o->r > 1e-12 ? o->r : 1e-12);
    return sqrt(part < 1.0 ? part : 1.0) / o->sigma;
}

// Derivative (2, 3) of the weighted error with respect to the point.
static inline FORCED void slope_of(const Seen *o, double root, double slope[2][3]) {
    const double scale = root * o->focal / o->z;
    for (int i = 0; i < 3; i++) {
        slope[0][i] = scale * (o->rotation[i] - o->x * o->rotation[6 + i]);
        slope[1][i] = scale * (o->rotation[3 + i] - o->y * o->rotation[6 + i]);
        double change[2] = {slope[0][i], slope[1][i]};
        through_lens(o, change);
        slope[0][i] = change[0], slope[1][i] = change[1];
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

static inline FORCED void load(const State *state, long points, long p, double point[3]) {
    for (int i = 0; i < 3; i++) point[i] = state->points[i * points + p];
}

// Errors (M) of a state, BEHIND_PX for points behind the camera, which are not `valid` (M); returns the cost.
CLONES double errors(const Observations *s, const State *state, double *r, unsigned char *valid) {
    double cost = 0.0, point[3];
    Seen o;
    for (long p = s->first; p < s->end; p++) {
        load(state, s->points, p, point);
        for (long m = s->starts[p]; m < s->starts[p + 1]; m++) {
            see(s, state, m, point, &o);
            r[m] = o.r, valid[m] = (unsigned char)o.valid;
            cost += o.cost;
        }
    }
    return cost;
}

// Derivative (2) of the error with respect to an intrinsic.
static inline FORCED void intrinsic_slope(const Seen *o, int kind, double slope[2]) {
    slope[0] = slope[1] = 0.0;
    if (kind == 0) {
        slope[0] = o->focal * o->x, slope[1] = o->focal * o->y;
        through_lens(o, slope);
    } else if (kind < 4) {
        const double square = o->shown[0] * o->shown[0] + o->shown[1] * o->shown[1];
        const double power = kind == 1 ? square : kind == 2 ? square * square : square * square * square;
        const double scale = -o->radius * o->along * power / (o->across * o->across);
        for (int i = 0; i < 2; i++) slope[i] = scale * o->shown[i];
    } else {
        slope[kind - 4] = o->radius;
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
    double point[3];
    Seen o;
    for (long p = s->first; p < s->end; p++) {
        double V[3][3] = {{0}}, *yp = y + 3 * (1 + K) * p, *Gp = G + 9 * p;
        memset(yp, 0, 3 * (1 + K) * sizeof(double));
        load(state, s->points, p, point);
        for (long m = s->starts[p]; m < s->starts[p + 1]; m++) {
            double slope[2][3], J[2][6], shares[KINDS][2], e[2];
            int which[KINDS], shared = 0;
            see(s, state, m, point, &o);
            const double root = root_weight(&o);
            slope_of(&o, root, slope);
            for (int a = 0; a < 2; a++) e[a] = root * o.error[a];
            for (int i = 0; i < 3; i++) {
                for (int j = 0; j < 3; j++) V[i][j] += slope[0][i] * slope[0][j] + slope[1][i] * slope[1][j];
                yp[i] -= slope[0][i] * e[0] + slope[1][i] * e[1];
            }
            for (int kind = 0; kind < KINDS; kind++) {
                const int k = s->unknown[KINDS * o.camera + kind];
                if (k < 0) continue;
                double *share = shares[shared];
                intrinsic_slope(&o, kind, share);
                which[shared++] = k;
                share[0] *= root, share[1] *= root;
                bf[k] -= share[0] * e[0] + share[1] * e[1];
                for (int i = 0; i < 3; i++) yp[3 * (1 + k) + i] += share[0] * slope[0][i] + share[1] * slope[1][i];
            }
            for (int a = 0; a < shared; a++)
                for (int b = 0; b < shared; b++)
                    ff[which[a] * K + which[b]] += shares[a][0] * shares[b][0] + shares[a][1] * shares[b][1];
            if (o.pose >= s->free) continue;
            // A shift of the center moves the ray back; a rotation v about it moves it by v x ray.
            for (int a = 0; a < 2; a++) {
                for (int i = 0; i < 3; i++) J[a][i] = -slope[a][i];
                J[a][3] = o.ray[1] * slope[a][2] - o.ray[2] * slope[a][1];
                J[a][4] = o.ray[2] * slope[a][0] - o.ray[0] * slope[a][2];
                J[a][5] = o.ray[0] * slope[a][1] - o.ray[1] * slope[a][0];
            }
            double *own = S + 6 * o.pose * (N + 1), *border = borders + 6 * o.pose, *W = Y + 18 * m;
            for (int i = 0; i < 6; i++) {
                for (int j = 0; j <= i; j++) own[i * N + j] += J[0][i] * J[0][j] + J[1][i] * J[1][j];
                border[i] -= J[0][i] * e[0] + J[1][i] * e[1];
                for (int a = 0; a < shared; a++)
                    border[(1 + which[a]) * N + i] += J[0][i] * shares[a][0] + J[1][i] * shares[a][1];
            }
            for (int i = 0; i < 3; i++)
                for (int j = 0; j < 6; j++) W[6 * i + j] = slope[0][i] * J[0][j] + slope[1][i] * J[1][j];
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
            for (int j = 0; j < 6; j++) {
                Ym[12 + j] = Gp[6] * Ym[j] + Gp[7] * Ym[6 + j] + Gp[8] * Ym[12 + j];
                Ym[6 + j] = Gp[3] * Ym[j] + Gp[4] * Ym[6 + j];
                Ym[j] = Gp[0] * Ym[j];
            }
            for (long f = 0; f <= K; f++)
                for (int j = 0; j < 6; j++)
                    border[f * N + j] -= Ym[j] * yp[3 * f] + Ym[6 + j] * yp[3 * f + 1] + Ym[12 + j] * yp[3 * f + 2];
            for (long n = s->starts[p]; n <= m; n++) {
                const double *Yn = Y + 18 * n;
                double *block = S + 6 * s->pose[m] * N + 6 * s->pose[n];
                for (int i = 0; i < 6; i++)
                    for (int j = 0; j < 6; j++)
                        block[i * N + j] -= Ym[i] * Yn[j] + Ym[6 + i] * Yn[6 + j] + Ym[12 + i] * Yn[12 + j];
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
    double total = 0.0;
    Seen o;
    for (long p = s->first; p < s->end; p++) {
        double V[3][3] = {{0}}, pull[3] = {0}, point[3], to[3], G[9], v[3], before = 0.0, after = 0.0;
        load(state, s->points, p, point);
        for (long m = s->starts[p]; m < s->starts[p + 1]; m++) {
            double slope[2][3];
            see(s, state, m, point, &o);
            before += o.cost;
            const double root = root_weight(&o);
            slope_of(&o, root, slope);
            for (int i = 0; i < 3; i++) {
                for (int j = 0; j < 3; j++) V[i][j] += slope[0][i] * slope[0][j] + slope[1][i] * slope[1][j];
                pull[i] -= root * (slope[0][i] * o.error[0] + slope[1][i] * o.error[1]);
            }
        }
        whitening((const double(*)[3])V, 0.0, G);
        v[0] = G[0] * pull[0];
        v[1] = G[3] * pull[0] + G[4] * pull[1];
        v[2] = G[6] * pull[0] + G[7] * pull[1] + G[8] * pull[2];
        to[0] = point[0] + G[0] * v[0] + G[3] * v[1] + G[6] * v[2];
        to[1] = point[1] + G[4] * v[1] + G[7] * v[2];
        to[2] = point[2] + G[8] * v[2];
        for (long m = s->starts[p]; m < s->starts[p + 1]; m++) {
            see(s, state, m, to, &o);
            after += o.cost;
        }
        const int worse = after > before;
        for (int i = 0; i < 3; i++) moved[i * s->points + p] = worse ? point[i] : to[i];
        total += worse ? before : after;
    }
    return total;
}
