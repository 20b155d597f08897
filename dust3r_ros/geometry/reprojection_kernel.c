// Poses from reprojection errors (see reprojection.py, which documents the method and does the same in NumPy).
//
// `points` (N, 3) in the world, `pixels` (N, 2), `pose` (4, 4) from the world into the camera. Residuals are (2, N):
// those in x first. Unknowns: translation and rotation of exp(xi) pose, and log focal if there are seven.

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define MOST 7 // unknowns
#define STILL_PX 1e-4
#define HUBER 1.345
#define MIN_PIVOT 1e-12 // of the normal equations; below, a direction of the pose is free

typedef struct {
    long count, unknowns;
    const double *points, *pixels, *std; // `std` (N): of the pixels; NULL: all alike
    double *pose; // the start, replaced by the result
    double center[2];
} Matches;

static inline FORCED double seen(const double *pose, const double *point, double *x, double *y)
{
    double X[3];
    for (int i = 0; i < 3; i++)
        X[i] = pose[4 * i] * point[0] + pose[4 * i + 1] * point[1] + pose[4 * i + 2] * point[2] + pose[4 * i + 3];
    *x = X[0] / X[2];
    *y = X[1] / X[2];
    return X[2];
}

// Returns how many points are in front of the camera; marks the others in `behind` (N), if given.
static inline FORCED long reproject(const Matches *m, const double *pose, double focal, double *residuals,
                                    unsigned char *behind)
{
    long ahead = 0;
    for (long n = 0; n < m->count; n++) {
        double x, y;
        const int in_front = seen(pose, m->points + 3 * n, &x, &y) > 0.0;
        ahead += in_front;
        if (behind)
            behind[n] = !in_front;
        const double unit = m->std ? m->std[n] : 1.0;
        residuals[n] = (focal * x + m->center[0] - m->pixels[2 * n]) / unit;
        residuals[m->count + n] = (focal * y + m->center[1] - m->pixels[2 * n + 1]) / unit;
    }
    return ahead;
}

// Adds w J J^T and w J r, with weights w (2, N), to the lower half of `normal` and to `gradient`.
static inline FORCED void add_up(const Matches *m, const double *pose, double focal, const double *residuals,
                                 const double *weights, double normal[MOST][MOST], double gradient[MOST])
{
    for (long n = 0; n < m->count; n++) {
        const double w[2] = {weights[n], weights[m->count + n]};
        if (w[0] == 0.0 && w[1] == 0.0)
            continue;
        double x, y;
        const double f = m->std ? focal / m->std[n] : focal, slope = f / seen(pose, m->points + 3 * n, &x, &y);
        const double J[2][MOST] = {
            {slope, 0.0, -x * slope, -x * y * f, (1.0 + x * x) * f, -y * f, x * f},
            {0.0, slope, -y * slope, (-1.0 - y * y) * f, x * y * f, x * f, y * f},
        };
        const double r[2] = {residuals[n], residuals[m->count + n]};
        for (int i = 0; i < MOST; i++) {
            const double a = w[0] * J[0][i], b = w[1] * J[1][i];
            gradient[i] += a * r[0] + b * r[1];
            for (int j = 0; j <= i; j++)
                normal[i][j] += a * J[0][j] + b * J[1][j];
        }
    }
}

// Standard deviation of most residuals, pixels, without those of points marked in `out` (N); NULL: none.
static double noise(const Matches *m, const double *residuals, const unsigned char *out, double *scratch)
{
    long count = 0;
    for (long n = 0; n < m->count; n++) {
        if (!out || !out[n]) {
            scratch[count++] = fabs(residuals[n]);
            scratch[count++] = fabs(residuals[m->count + n]);
        }
    }
    const double result = 1.4826 * median(scratch, count);
    return result > 1e-6 ? result : 1e-6;
}

static inline FORCED void weigh(const Matches *m, const double *residuals, const unsigned char *out, double scale,
                                double *weights)
{
    for (long k = 0; k < 2 * m->count; k++) {
        const double size = fabs(residuals[k]), weight = HUBER * scale / (size > 1e-12 ? size : 1e-12);
        weights[k] = out && out[k < m->count ? k : k - m->count] ? 0.0 : weight < 1.0 ? weight : 1.0;
    }
}

static inline FORCED double cost(const Matches *m, const double *residuals, double scale)
{
    double total = 0.0;
    for (long k = 0; k < 2 * m->count; k++) {
        const double size = fabs(residuals[k]) / scale, within = size < HUBER ? size : HUBER;
        total += within * (2.0 * size - within);
    }
    return total;
}

// The `step` that solves (normal + damping of its diagonal) step = -gradient; 0 where that is not positive definite.
static int solved(const double normal[MOST][MOST], const double *gradient, double damping, long unknowns, double *step)
{
    double L[MOST][MOST];
    for (long i = 0; i < unknowns; i++) {
        for (long j = 0; j <= i; j++) {
            double sum = i == j ? (1.0 + damping) * normal[i][i] : normal[i][j];
            for (long k = 0; k < j; k++)
                sum -= L[i][k] * L[j][k];
            if (i != j)
                L[i][j] = sum / L[j][j];
            else if (sum > MIN_PIVOT * normal[i][i])
                L[i][i] = sqrt(sum);
            else
                return 0;
        }
        step[i] = -gradient[i];
        for (long k = 0; k < i; k++)
            step[i] -= L[i][k] * step[k];
        step[i] /= L[i][i];
    }
    for (long i = unknowns - 1; i >= 0; i--) {
        for (long k = i + 1; k < unknowns; k++)
            step[i] -= L[k][i] * step[k];
        step[i] /= L[i][i];
    }
    return 1;
}

// step^T normal step: the squared length of a step relative to the pose's uncertainty.
static double squared(const double normal[MOST][MOST], const double *step, long unknowns)
{
    double total = 0.0;
    for (long i = 0; i < unknowns; i++)
        for (long j = 0; j < unknowns; j++)
            total += step[i] * step[j] * (j <= i ? normal[i][j] : normal[j][i]);
    return total;
}

// exp(step) pose: the rotation by Rodrigues, the translation as it is.
static void move(const double *pose, const double *step, double *moved)
{
    double R[9];
    rotation_of(step + 3, R);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++)
            moved[4 * i + j] =
                R[3 * i] * pose[j] + R[3 * i + 1] * pose[4 + j] + R[3 * i + 2] * pose[8 + j] + (j == 3 ? step[i] : 0.0);
    memcpy(moved + 12, pose + 12, 4 * sizeof(double));
}

// Workspace of a minimisation: three arrays like the residuals and one (N); `residuals` is NULL if memory is short.
typedef struct {
    double *residuals, *after, *weights;
    unsigned char *out;
} Room;

static Room room_for(long count)
{
    double *block = malloc((size_t)count * (6 * sizeof(double) + 1) + 1);
    const Room room = {block, block + 2 * count, block + 4 * count, (unsigned char *)(block + 6 * count)};
    return room;
}

// Levenberg-Marquardt over the pose and `focal`; 0 if the points leave the pose free.
CLONES int minimise_pose(const Matches *m, double *focal, double converged, long most_steps)
{
    double *pose = m->pose;
    Room room = room_for(m->count);
    int found = room.residuals && m->count > 0;
    double damping = 1e-4;
    if (found)
        reproject(m, pose, *focal, room.residuals, NULL);
    for (long at = 0; found && at < most_steps; at++) {
        double normal[MOST][MOST] = {{0}}, gradient[MOST] = {0}, step[MOST], moved[16];
        const double scale = noise(m, room.residuals, NULL, room.weights);
        weigh(m, room.residuals, NULL, scale, room.weights);
        add_up(m, pose, *focal, room.residuals, room.weights, normal, gradient);
        found = (at > 0 || solved((const double(*)[MOST])normal, gradient, 0.0, m->unknowns, step))
                && solved((const double(*)[MOST])normal, gradient, damping, m->unknowns, step);
        if (!found)
            break;
        move(pose, step, moved);
        const double length = m->unknowns > 6 ? *focal * exp(step[6]) : *focal;
        const long ahead = reproject(m, moved, length, room.after, NULL);
        double most = 0.0;
        for (long k = 0; k < 2 * m->count; k++)
            most = fmax(most, fabs(room.after[k] - room.residuals[k]));
        int near = most < STILL_PX;
        if (ahead < m->count || cost(m, room.after, scale) > cost(m, room.residuals, scale)) {
            damping *= 10.0;
        } else {
            memcpy(pose, moved, sizeof moved);
            memcpy(room.residuals, room.after, (size_t)m->count * 2 * sizeof(double));
            *focal = length;
            damping /= 10.0;
            near |= squared((const double(*)[MOST])normal, step, m->unknowns) < converged * converged * scale * scale;
        }
        if (near || damping > 1e8)
            break;
    }
    free(room.residuals);
    return found;
}

// Gauss-Newton over the pose, on matches below `gates`: one for the first step, one for the others.
// 0 if it does not converge within the permitted steps, or if fewer than `fewest` matches are below the gate.
CLONES int settle_pose(const Matches *m, double focal, const double *gates, double fewest, double converged,
                       long most_steps)
{
    double *pose = m->pose;
    Room room = room_for(m->count);
    int found = 0;
    for (long at = 0; room.residuals && !found && at < most_steps; at++) {
        double normal[MOST][MOST] = {{0}}, gradient[MOST] = {0}, step[MOST], moved[16];
        const double gate = gates[at > 0];
        long near = 0;
        reproject(m, pose, focal, room.residuals, room.out);
        for (long n = 0; n < m->count; n++) {
            const double x = room.residuals[n], y = room.residuals[m->count + n];
            room.out[n] |= !(x * x + y * y < gate * gate);
            near += !room.out[n];
        }
        if (near < 1 || (double)near < fewest)
            break;
        const double scale = noise(m, room.residuals, room.out, room.weights);
        weigh(m, room.residuals, room.out, scale, room.weights);
        add_up(m, pose, focal, room.residuals, room.weights, normal, gradient);
        if (!solved((const double(*)[MOST])normal, gradient, 0.0, m->unknowns, step))
            break;
        move(pose, step, moved);
        memcpy(pose, moved, sizeof moved);
        const double limit = converged * converged * scale * scale;
        found = at > 0 && squared((const double(*)[MOST])normal, step, m->unknowns) < limit;
    }
    free(room.residuals);
    return found;
}
