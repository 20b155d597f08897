// Relative poses from matches (see essential.py, which documents the method and does the same in NumPy and OpenCV,
// several times slower).
//
// Rays `a`, `b` (N, 3) have z = 1. A motion is R (3, 3) and t (3) of length 1: z_b b = z_a R a + t, E = [t] R.

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define HUBER 1.345
#define STEPS 20
#define LITTLE 1e-6
#define TINY 1e-24
#define SAMPLE 5
#define MOST_ROOTS 10
#define BLOCK 64      // matches whose errors are summed before a model may be given up
#define LOCAL_STEPS 6 // of the refinement of a model that is the best so far
#define BAND 3.0      // thresholds: matches of that refinement
#define LOCAL 400     // the most of them

typedef struct {
    double R[9], t[3];
} Motion;

typedef struct {
    long count;
    const double *a, *b;
} Rays;

static void cross(const double *a, const double *b, double *result)
{
    const double x = a[1] * b[2] - a[2] * b[1], y = a[2] * b[0] - a[0] * b[2], z = a[0] * b[1] - a[1] * b[0];
    result[0] = x, result[1] = y, result[2] = z;
}

static double dot(const double *a, const double *b)
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

static void essential(const Motion *motion, double E[9])
{
    for (int j = 0; j < 3; j++) {
        const double column[3] = {motion->R[j], motion->R[3 + j], motion->R[6 + j]};
        double turned[3];
        cross(motion->t, column, turned);
        for (int i = 0; i < 3; i++)
            E[3 * i + j] = turned[i];
    }
}

// Two directions (2, 3) across a unit vector: first away from the axis that is farthest from it.
static void across(const double *t, double directions[6])
{
    const int axis = fabs(t[0]) <= fabs(t[1]) && fabs(t[0]) <= fabs(t[2]) ? 0 : fabs(t[1]) <= fabs(t[2]) ? 1 : 2;
    const double unit[3] = {axis == 0, axis == 1, axis == 2};
    cross(t, unit, directions);
    const double length = sqrt(dot(directions, directions));
    for (int i = 0; i < 3; i++)
        directions[i] /= length;
    cross(t, directions, directions + 3);
}

static void moved(const Motion *motion, const double *step, Motion *result)
{
    double turn[9], directions[6], length = 0.0;
    rotation_of(step, turn);
    across(motion->t, directions);
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++)
            result->R[3 * i + j] =
                turn[3 * i] * motion->R[j] + turn[3 * i + 1] * motion->R[3 + j] + turn[3 * i + 2] * motion->R[6 + j];
        result->t[i] = motion->t[i] + step[3] * directions[i] + step[4] * directions[3 + i];
        length += result->t[i] * result->t[i];
    }
    for (int i = 0; i < 3; i++)
        result->t[i] /= sqrt(length);
}

// Sampson's distance, and what it was divided by, with a focal of `focal`.
static inline FORCED double sampson(const double E[9], const double *a, const double *b, double focal, double *scale)
{
    double line_b[3], line_a[2];
    for (int i = 0; i < 3; i++)
        line_b[i] = E[3 * i] * a[0] + E[3 * i + 1] * a[1] + E[3 * i + 2] * a[2];
    for (int i = 0; i < 2; i++)
        line_a[i] = E[i] * b[0] + E[3 + i] * b[1] + E[6 + i] * b[2];
    const double slopes =
        line_b[0] * line_b[0] + line_b[1] * line_b[1] + line_a[0] * line_a[0] + line_a[1] * line_a[1];
    *scale = focal / sqrt(slopes > TINY ? slopes : TINY);
    return *scale * dot(b, line_b);
}

// The errors (N) of a motion; returns Huber's loss of them.
static inline FORCED double loss(const Rays *rays, const Motion *motion, double focal, double width, double *error)
{
    double E[9], total = 0.0, scale;
    essential(motion, E);
    for (long n = 0; n < rays->count; n++) {
        error[n] = sampson(E, rays->a + 3 * n, rays->b + 3 * n, focal, &scale);
        const double size = fabs(error[n]), within = size < width ? size : width;
        total += within * (size - 0.5 * within);
    }
    return total;
}

static inline FORCED void add_up(const Rays *rays, const Motion *motion, double focal, double width, double normal[5][5],
                                 double gradient[5])
{
    double E[9], directions[6];
    essential(motion, E);
    across(motion->t, directions);
    for (long n = 0; n < rays->count; n++) {
        const double *a = rays->a + 3 * n, *b = rays->b + 3 * n;
        double turned[3], normal_b[3], both[3], slope[5], scale;
        const double error = sampson(E, a, b, focal, &scale), size = fabs(error);
        const double part = width / (size > 1e-12 ? size : 1e-12), weight = part < 1.0 ? part : 1.0;
        for (int i = 0; i < 3; i++)
            turned[i] = motion->R[3 * i] * a[0] + motion->R[3 * i + 1] * a[1] + motion->R[3 * i + 2] * a[2];
        cross(b, motion->t, normal_b); // b . (t x Ra) is (b x t) . Ra, and (Ra x b) . t
        cross(turned, normal_b, slope);
        cross(turned, b, both);
        slope[3] = dot(both, directions), slope[4] = dot(both, directions + 3);
        for (int i = 0; i < 5; i++)
            slope[i] *= scale;
        for (int i = 0; i < 5; i++) {
            const double weighted = weight * slope[i];
            gradient[i] += weighted * error;
            for (int j = 0; j <= i; j++)
                normal[i][j] += weighted * slope[j];
        }
    }
}

static int solved(const double normal[5][5], const double *gradient, double damping, double *step)
{
    double L[5][5];
    for (int i = 0; i < 5; i++) {
        for (int j = 0; j <= i; j++) {
            double sum = i == j ? (1.0 + damping) * normal[i][i] + 1e-12 : normal[i][j];
            for (int k = 0; k < j; k++)
                sum -= L[i][k] * L[j][k];
            if (i != j)
                L[i][j] = sum / L[j][j];
            else if (sum > 0.0)
                L[i][i] = sqrt(sum);
            else
                return 0;
        }
        step[i] = -gradient[i];
        for (int k = 0; k < i; k++)
            step[i] -= L[i][k] * step[k];
        step[i] /= L[i][i];
    }
    for (int i = 4; i >= 0; i--) {
        for (int k = i + 1; k < 5; k++)
            step[i] -= L[k][i] * step[k];
        step[i] /= L[i][i];
    }
    return 1;
}

// Levenberg-Marquardt with Huber's loss of Sampson's distance; `error` and `scratch` (N) are workspaces.
static inline FORCED void refine(const Rays *rays, Motion *motion, double focal, int steps, double *error, double *scratch)
{
    loss(rays, motion, focal, 1.0, error);
    for (long n = 0; n < rays->count; n++)
        scratch[n] = fabs(error[n]);
    const double scatter = 1.4826 * median(scratch, rays->count), width = HUBER * (scatter > 1e-6 ? scatter : 1e-6);
    double damping = 1e-4, cost = loss(rays, motion, focal, width, error);
    for (int at = 0; at < steps; at++) {
        double step[5], normal[5][5] = {{0}}, gradient[5] = {0};
        add_up(rays, motion, focal, width, normal, gradient);
        if (!solved((const double(*)[5])normal, gradient, damping, step))
            return;
        Motion trial;
        moved(motion, step, &trial);
        const double then = loss(rays, &trial, focal, width, error);
        if (!(then < cost)) {
            damping *= 10.0;
            if (damping > 1e6)
                return;
            continue;
        }
        const double gain = (cost - then) / cost;
        damping /= 10.0, *motion = trial, cost = then;
        if (gain < LITTLE)
            return;
    }
}

// Minimises the loss, pixels, from a start `motion` (12: R, t); 0 if memory is short.
CLONES int refine_motion(long count, const double *a, const double *b, double focal, double *motion)
{
    double *error = malloc(2 * (size_t)count * sizeof(double) + 1);
    if (!error)
        return 0;
    const Rays rays = {count, a, b};
    Motion found;
    memcpy(&found, motion, sizeof found);
    refine(&rays, &found, focal, STEPS, error, error + count);
    memcpy(motion, &found, sizeof found);
    free(error);
    return 1;
}

// Polynomials in x, y, z: linear ones have coefficients of x, y, z, 1; quadratic ones of x2 xy xz x y2 yz y z2 z 1;
// cubic ones of x3 y3 x2y xy2 x2z x2 y2z y2 xyz xy, and, after these have been eliminated, xz2 xz x yz2 yz y z3 z2 z 1.
static const int SQUARED[4][4] = {{0, 1, 2, 3}, {1, 4, 5, 6}, {2, 5, 7, 8}, {3, 6, 8, 9}};
static const int CUBED[10][4] = {
    {0, 2, 4, 5}, {2, 3, 8, 9}, {4, 8, 10, 11}, {5, 9, 11, 12}, {3, 1, 6, 7},
    {8, 6, 13, 14}, {9, 7, 14, 15}, {10, 13, 16, 17}, {11, 14, 17, 18}, {12, 15, 18, 19},
};

static inline FORCED void add_square(const double *a, const double *b, double factor, double *sum)
{
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            sum[SQUARED[i][j]] += factor * a[i] * b[j];
}

static inline FORCED void add_cube(const double *a, const double *b, double factor, double *sum)
{
    for (int i = 0; i < 10; i++)
        for (int j = 0; j < 4; j++)
            sum[CUBED[i][j]] += factor * a[i] * b[j];
}

// Four matrices (4, 9) that span those on which the five matches agree; 0 if they span more.
static int null_space(const double rows[SAMPLE][9], double basis[4][9])
{
    double m[SAMPLE][9];
    int pivot[SAMPLE], used[9] = {0};
    memcpy(m, rows, sizeof m);
    for (int k = 0; k < SAMPLE; k++) {
        int row = k, column = -1;
        double most = 1e-9;
        for (int i = k; i < SAMPLE; i++)
            for (int j = 0; j < 9; j++)
                if (!used[j] && fabs(m[i][j]) > most)
                    most = fabs(m[i][j]), row = i, column = j;
        if (column < 0)
            return 0;
        for (int j = 0; j < 9; j++) {
            const double other = m[k][j];
            m[k][j] = m[row][j];
            m[row][j] = other;
        }
        const double inverse = 1.0 / m[k][column];
        for (int j = 0; j < 9; j++)
            m[k][j] *= inverse;
        for (int i = 0; i < SAMPLE; i++) {
            const double factor = m[i][column];
            if (i == k || factor == 0.0)
                continue;
            for (int j = 0; j < 9; j++)
                m[i][j] -= factor * m[k][j];
        }
        pivot[k] = column, used[column] = 1;
    }
    int found = 0;
    for (int j = 0; j < 9; j++) {
        if (used[j])
            continue;
        memset(basis[found], 0, sizeof basis[found]);
        basis[found][j] = 1.0;
        for (int k = 0; k < SAMPLE; k++)
            basis[found][pivot[k]] = -m[k][j];
        found++;
    }
    return 1;
}

// The ten cubic equations of an essential matrix: 2 E E^T E = tr(E E^T) E, and its determinant is 0.
static inline FORCED void equations(const double e[9][4], double M[10][20])
{
    double square[6][10] = {{0}}, minor[3][10] = {{0}}, trace[10];
    static const int AT[3][3] = {{0, 1, 2}, {1, 3, 4}, {2, 4, 5}};
    memset(M, 0, 200 * sizeof(double));
    for (int i = 0; i < 3; i++)
        for (int j = i; j < 3; j++)
            for (int k = 0; k < 3; k++)
                add_square(e[3 * i + k], e[3 * j + k], 1.0, square[AT[i][j]]);
    for (int k = 0; k < 10; k++)
        trace[k] = 0.5 * (square[0][k] + square[3][k] + square[5][k]);
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 10; k++)
            square[AT[i][i]][k] -= trace[k];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < 3; k++)
                add_cube(square[AT[i][k]], e[3 * k + j], 1.0, M[3 * i + j]);
    for (int j = 0; j < 3; j++) {
        const int k = (j + 1) % 3, l = (j + 2) % 3;
        add_square(e[3 + k], e[6 + l], 1.0, minor[j]);
        add_square(e[3 + l], e[6 + k], -1.0, minor[j]);
        add_cube(minor[j], e[j], 1.0, M[9]);
    }
}

// Gauss-Jordan elimination of the first ten columns; of the first four, only below the diagonal.
static inline FORCED int eliminated(double M[10][20])
{
    for (int k = 0; k < 10; k++) {
        int row = k;
        for (int i = k + 1; i < 10; i++)
            row = fabs(M[i][k]) > fabs(M[row][k]) ? i : row;
        if (!(fabs(M[row][k]) > 1e-13))
            return 0;
        for (int j = k; row != k && j < 20; j++) {
            const double other = M[k][j];
            M[k][j] = M[row][j];
            M[row][j] = other;
        }
        const double inverse = 1.0 / M[k][k];
        for (int j = k; j < 20; j++)
            M[k][j] *= inverse;
        for (int i = k < 4 ? k + 1 : 4; i < 10; i++) {
            const double factor = M[i][k];
            if (i == k || factor == 0.0)
                continue;
            for (int j = k; j < 20; j++)
                M[i][j] -= factor * M[k][j];
        }
    }
    return 1;
}

// sum += factor a b of polynomials in z, lowest power first, of degrees `m` and `n`.
static void add_product(const double *a, int m, const double *b, int n, double factor, double *sum)
{
    for (int i = 0; i <= m; i++)
        for (int j = 0; j <= n; j++)
            sum[i + j] += factor * a[i] * b[j];
}

static inline double value_of(const double *p, int degree, double x)
{
    double value = p[degree];
    for (int k = degree - 1; k >= 0; k--)
        value = value * x + p[k];
    return value;
}

// The root between `low` and `high`, at which the polynomial has different signs: Newton, halving where that leads out.
static double root_between(const double *p, const double *slope, int degree, double low, double high)
{
    const int rises = value_of(p, degree, high) > 0.0;
    double x = 0.5 * (low + high);
    for (int at = 0; at < 60; at++) {
        const double value = value_of(p, degree, x);
        if ((value > 0.0) == rises)
            high = x;
        else
            low = x;
        double next = x - value / value_of(slope, degree - 1, x);
        if (!(next > low && next < high))
            next = 0.5 * (low + high);
        if (fabs(next - x) < 1e-14)
            return next;
        x = next;
    }
    return x;
}

// The real roots in [-1, 1] of a polynomial of degree ten, between those of its derivatives; returns how many.
static int roots_within(const double *p, double *roots)
{
    double derivative[MOST_ROOTS][MOST_ROOTS + 1], bounds[MOST_ROOTS + 2] = {-1.0, 1.0};
    int count = 0;
    memcpy(derivative[0], p, sizeof derivative[0]);
    for (int k = 1; k < MOST_ROOTS; k++)
        for (int j = 0; j <= MOST_ROOTS - k; j++)
            derivative[k][j] = (j + 1) * derivative[k - 1][j + 1];
    for (int degree = 1; degree <= MOST_ROOTS; degree++) {
        const double *poly = derivative[MOST_ROOTS - degree];
        const double *slope = degree > 1 ? derivative[MOST_ROOTS - degree + 1] : poly + 1;
        double found[MOST_ROOTS];
        int more = 0;
        double before = value_of(poly, degree, bounds[0]);
        for (int k = 0; k <= count; k++) {
            const double after = value_of(poly, degree, bounds[k + 1]);
            if ((before > 0.0) != (after > 0.0))
                found[more++] = root_between(poly, slope, degree, bounds[k], bounds[k + 1]);
            before = after;
        }
        memcpy(bounds + 1, found, (size_t)more * sizeof(double));
        bounds[more + 1] = 1.0;
        count = more;
    }
    memcpy(roots, bounds + 1, (size_t)count * sizeof(double));
    return count;
}

// The essential matrices (up to 10, 9) of five matches (5, 9: the products of their coordinates); returns how many.
static inline FORCED int five_points(const double rows[SAMPLE][9], double found[MOST_ROOTS][9])
{
    double basis[4][9], e[9][4], M[10][20], B[3][3][5] = {{{0}}}, p[MOST_ROOTS + 1] = {0}, reversed[MOST_ROOTS + 1];
    if (!null_space(rows, basis))
        return 0;
    for (int i = 0; i < 9; i++)
        for (int k = 0; k < 4; k++)
            e[i][k] = basis[k][i];
    equations((const double(*)[4])e, M);
    if (!eliminated(M))
        return 0;
    // Rows 4 to 9 begin with x2z, x2, y2z, y2, xyz, xy: of two, the first minus z times the second is linear in x and y.
    static const int FROM[3] = {10, 13, 16}, TERMS[3] = {3, 3, 4};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < TERMS[j]; k++) {
                const int power = TERMS[j] - 1 - k;
                B[i][j][power] += M[4 + 2 * i][FROM[j] + k];
                B[i][j][power + 1] -= M[5 + 2 * i][FROM[j] + k];
            }
    for (int j = 0; j < 3; j++) {
        const int k = (j + 1) % 3, l = (j + 2) % 3;
        double minor[9] = {0};
        add_product(B[1][k], 4, B[2][l], 4, 1.0, minor);
        add_product(B[1][l], 4, B[2][k], 4, -1.0, minor);
        double product[13] = {0};
        add_product(B[0][j], 4, minor, 8, 1.0, product);
        for (int n = 0; n <= MOST_ROOTS; n++)
            p[n] += product[n];
    }
    for (int n = 0; n <= MOST_ROOTS; n++)
        reversed[n] = p[MOST_ROOTS - n];
    double roots[2 * MOST_ROOTS];
    int count = roots_within(p, roots), more = roots_within(reversed, roots + count);
    for (int k = count; k < count + more; k++)
        roots[k] = 1.0 / roots[k];
    count = count + more < MOST_ROOTS ? count + more : MOST_ROOTS;
    int kept = 0;
    for (int k = 0; k < count; k++) {
        const double z = roots[k];
        double at[3][3], best[3] = {0}, v[3], squares = 0.0;
        if (!isfinite(z))
            continue;
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++)
                at[i][j] = value_of(B[i][j], 4, z);
        for (int i = 0; i < 3; i++) {
            cross(at[i], at[(i + 1) % 3], v);
            if (fabs(v[2]) > fabs(best[2]))
                memcpy(best, v, sizeof best);
        }
        if (best[2] == 0.0)
            continue;
        const double x = best[0] / best[2], y = best[1] / best[2];
        for (int i = 0; i < 9; i++) {
            found[kept][i] = x * basis[0][i] + y * basis[1][i] + z * basis[2][i] + basis[3][i];
            squares += found[kept][i] * found[kept][i];
        }
        if (!(squares > 0.0 && isfinite(squares)))
            continue;
        for (int i = 0; i < 9; i++)
            found[kept][i] /= sqrt(squares);
        kept++;
    }
    return kept;
}

// Coordinates (4, N) of the matches: x and y of a, then of b.
typedef struct {
    long count;
    const float *x;
} Plane;

// Sum of squared Sampson distances over the squared threshold, each at most 1; the sum so far if that is `most` or more.
static inline FORCED double misfit(const Plane *plane, const double *E, double threshold, double most)
{
    const float *ax = plane->x, *ay = ax + plane->count, *bx = ay + plane->count, *by = bx + plane->count;
    const float e[9] = {(float)E[0], (float)E[1], (float)E[2], (float)E[3], (float)E[4],
                        (float)E[5], (float)E[6], (float)E[7], (float)E[8]};
    const float scale = (float)(1.0 / (threshold * threshold));
    double total = 0.0;
    for (long from = 0; from < plane->count; from += BLOCK) {
        const long size = plane->count - from < BLOCK ? plane->count - from : BLOCK;
        float part[BLOCK] = {0}, sum[8] = {0};
        for (long k = 0; k < size; k++) {
            const long n = from + k;
            const float u = e[0] * ax[n] + e[1] * ay[n] + e[2], v = e[3] * ax[n] + e[4] * ay[n] + e[5];
            const float w = e[6] * ax[n] + e[7] * ay[n] + e[8];
            const float s = e[0] * bx[n] + e[3] * by[n] + e[6], t = e[1] * bx[n] + e[4] * by[n] + e[7];
            const float error = bx[n] * u + by[n] * v + w;
            const float square = scale * error * error / (u * u + v * v + s * s + t * t + 1e-30f);
            part[k] = square < 1.0f ? square : 1.0f;
        }
        for (long k = 0; k < BLOCK; k += 8)
            for (int l = 0; l < 8; l++)
                sum[l] += part[k + l];
        total += ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
        if (total >= most)
            return total;
    }
    return total;
}

// Whether a match lies in front of both cameras: from z_b b = z_a R a + t, times R a and times b.
static int in_front(const Motion *motion, const double *a, const double *b)
{
    double turned[3], normal[3], of_a[3], of_b[3];
    for (int i = 0; i < 3; i++)
        turned[i] = motion->R[3 * i] * a[0] + motion->R[3 * i + 1] * a[1] + motion->R[3 * i + 2] * a[2];
    cross(turned, b, normal);
    cross(b, motion->t, of_a);
    cross(turned, motion->t, of_b);
    return dot(of_a, normal) > 0.0 && dot(of_b, normal) > 0.0;
}

// The rotation next to a matrix that is nearly one: R (3 - R^T R) / 2 doubles the number of right digits.
static void straighten(double *R)
{
    for (int round = 0; round < 3; round++) {
        double factor[9], next[9];
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++)
                factor[3 * i + j] = (i == j ? 1.5 : 0.0) - 0.5 * (R[i] * R[j] + R[3 + i] * R[3 + j] + R[6 + i] * R[6 + j]);
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++)
                next[3 * i + j] = R[3 * i] * factor[j] + R[3 * i + 1] * factor[3 + j] + R[3 * i + 2] * factor[6 + j];
        memcpy(R, next, sizeof next);
    }
}

// The motion of an essential matrix that has most of the matches within `threshold` in front of both cameras; returns
// how many (Horn, "Recovering baseline and orientation from essential matrix", 1990).
static long motion_of(const double *E, const Rays *rays, double threshold, Motion *best)
{
    double products[3][3], cofactors[9], norm, scale;
    Motion options[4];
    long counts[4] = {0}, most = -1;
    for (int k = 0; k < 3; k++) {
        const double p[3] = {E[(k + 1) % 3], E[3 + (k + 1) % 3], E[6 + (k + 1) % 3]};
        const double q[3] = {E[(k + 2) % 3], E[3 + (k + 2) % 3], E[6 + (k + 2) % 3]};
        cross(p, q, products[k]); // of two columns: along the translation
        for (int i = 0; i < 3; i++)
            cofactors[3 * i + k] = products[k][i];
    }
    const double *along = products[0];
    for (int k = 1; k < 3; k++)
        along = dot(products[k], products[k]) > dot(along, along) ? products[k] : along;
    norm = sqrt(dot(along, along));
    if (!(norm > 0.0))
        return 0;
    double squares = 0.0;
    for (int i = 0; i < 9; i++)
        squares += E[i] * E[i];
    const double length = sqrt(0.5 * squares);
    for (int k = 0; k < 4; k++) {
        Motion *m = options + k;
        const double sign = k & 1 ? -1.0 : 1.0; // of the translation
        double t[3], shifted[9];
        for (int i = 0; i < 3; i++)
            m->t[i] = sign * along[i] / norm, t[i] = (k & 2 ? -sign : sign) * length * m->t[i];
        for (int j = 0; j < 3; j++) {
            const double column[3] = {E[j], E[3 + j], E[6 + j]};
            double turned[3];
            cross(t, column, turned);
            for (int i = 0; i < 3; i++)
                shifted[3 * i + j] = turned[i];
        }
        for (int i = 0; i < 9; i++)
            m->R[i] = (cofactors[i] - shifted[i]) / (length * length);
    }
    for (long n = 0; n < rays->count; n++) {
        const double *a = rays->a + 3 * n, *b = rays->b + 3 * n;
        if (!(fabs(sampson(E, a, b, 1.0, &scale)) < threshold))
            continue;
        for (int k = 0; k < 4; k++)
            counts[k] += in_front(options + k, a, b);
    }
    for (int k = 0; k < 4; k++)
        if (counts[k] > most)
            most = counts[k], *best = options[k];
    straighten(best->R);
    return most;
}

static unsigned long long drawn(unsigned long long *state) // xorshift64*
{
    *state ^= *state >> 12, *state ^= *state << 25, *state ^= *state >> 27;
    return (*state * 2685821657736338717ULL) >> 32;
}

typedef struct {
    Rays rays, near; // `near`: room for the matches of a local refinement
    double *error, *scratch;
} Room;

// The refinement of the best model on what lies near it.
static inline FORCED int improved(const Room *room, const double *E, double threshold, Motion *motion)
{
    double *near_a = (double *)room->near.a, *near_b = (double *)room->near.b, scale;
    if (motion_of(E, &room->rays, threshold, motion) < SAMPLE)
        return 0;
    long count = 0;
    for (long n = 0; n < room->rays.count && count < LOCAL; n++) {
        const double *a = room->rays.a + 3 * n, *b = room->rays.b + 3 * n;
        if (!(fabs(sampson(E, a, b, 1.0, &scale)) < BAND * threshold))
            continue;
        memcpy(near_a + 3 * count, a, 3 * sizeof(double));
        memcpy(near_b + 3 * count++, b, 3 * sizeof(double));
    }
    const Rays near = {count, near_a, near_b};
    refine(&near, motion, 1.0 / threshold, LOCAL_STEPS, room->error, room->scratch);
    return 1;
}

// RANSAC over five points with local optimisation (Chum, Matas and Kittler, 2003), judged by truncated squares (Torr and
// Zisserman's MSAC, 2000). `threshold`: with focal 1. Writes `motion` (12: R, t); returns whether there is one.
CLONES int search_motion(long count, const double *a, const double *b, double threshold, long tries, double confidence,
                         unsigned long long seed, double *motion)
{
    double *block = malloc((size_t)count * (8 * sizeof(double) + 4 * sizeof(float)) + 1);
    if (!block || count < SAMPLE) {
        free(block);
        return 0;
    }
    const Room room = {{count, a, b}, {0, block, block + 3 * count}, block + 6 * count, block + 7 * count};
    float *flat = (float *)(block + 8 * count);
    for (long n = 0; n < count; n++) {
        flat[n] = (float)a[3 * n], flat[count + n] = (float)a[3 * n + 1];
        flat[2 * count + n] = (float)b[3 * n], flat[3 * count + n] = (float)b[3 * n + 1];
    }
    const Plane plane = {count, flat};
    double best = (double)count, winner[9];
    int found = 0;
    unsigned long long state = seed * 0x9E3779B97F4A7C15ULL + 0x2545F4914F6CDD1DULL;
    for (long at = 0, needed = tries; at < needed; at++) {
        long chosen[SAMPLE];
        double rows[SAMPLE][9], models[MOST_ROOTS][9];
        for (int k = 0; k < SAMPLE;) {
            chosen[k] = (long)(drawn(&state) % (unsigned long long)count);
            int again = 0;
            for (int j = 0; j < k; j++)
                again |= chosen[j] == chosen[k];
            k += !again;
        }
        for (int k = 0; k < SAMPLE; k++)
            for (int i = 0; i < 9; i++)
                rows[k][i] = b[3 * chosen[k] + i / 3] * a[3 * chosen[k] + i % 3];
        const int solutions = five_points((const double(*)[9])rows, models);
        int better = 0;
        for (int k = 0; k < solutions; k++) {
            const double cost = misfit(&plane, models[k], threshold, best);
            if (cost < best)
                best = cost, memcpy(winner, models[k], sizeof winner), better = found = 1;
        }
        if (!better)
            continue;
        for (int round = 0; round < 2; round++) {
            Motion polished;
            double E[9];
            if (!improved(&room, winner, threshold, &polished))
                break;
            essential(&polished, E);
            const double cost = misfit(&plane, E, threshold, best);
            if (!(cost < best))
                break;
            best = cost, memcpy(winner, E, sizeof winner);
        }
        long inliers = 0;
        double scale;
        for (long n = 0; n < count; n++)
            inliers += fabs(sampson(winner, a + 3 * n, b + 3 * n, 1.0, &scale)) < threshold;
        const double missed = 1.0 - pow((double)inliers / (double)count, SAMPLE);
        const double enough = missed > 0.0 ? log(1.0 - confidence) / log(missed) : 0.0;
        needed = enough < (double)tries ? (long)enough + 1 : tries;
    }
    Motion result;
    found = found && motion_of(winner, &room.rays, threshold, &result) > 0;
    if (found)
        memcpy(motion, &result, sizeof result);
    free(block);
    return found;
}
