// Nearest descriptors (see features.py, which documents the method and does the same in NumPy), rounded to integers.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define COMPONENTS 64
#define GROUPS (COMPONENTS / 4) // of four products that one instruction adds up
#define LANES 16
#define ROWS 4
#define NONE INT32_MIN
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))

// Whether this processor has the instructions.
int can_match(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
           && __builtin_cpu_supports("avx512vnni");
}

static int32_t squared(const int8_t *descriptor)
{
    int32_t sum = 0;
    for (int k = 0; k < COMPONENTS; k++)
        sum += (int32_t)descriptor[k] * descriptor[k];
    return sum;
}

// For each of `a` (N, 64) the `nearest` (N) of `b` (M, 64), the first of several, and `squares` (N, 2): the squared
// distances of the nearest and of the second. `back` (M) and `squares_back` (M, 2): the same for each of `b`. 0 if memory
// is short or there are too few.
VNNI int nearest_descriptors(long n, long m, const int8_t *a, const int8_t *b, int32_t *nearest, int32_t *squares,
                             int32_t *back, int32_t *squares_back)
{
    const long blocks = (m + LANES - 1) / LANES, rows = (n + ROWS - 1) / ROWS * ROWS;
    const size_t columns = (size_t)blocks * LANES, packed = columns * COMPONENTS, lifted = (size_t)rows * COMPONENTS;
    char *memory = aligned_alloc(64, (packed + lifted + (5 * columns + (size_t)rows) * sizeof(int32_t) + 127) / 64 * 64);
    if (!memory || n < 2 || m < 2) {
        free(memory);
        return 0;
    }
    int8_t *of_b = (int8_t *)memory;                     // (blocks, groups, lanes, 4)
    uint8_t *of_a = (uint8_t *)memory + packed;          // made positive by 128
    int32_t *offset = (int32_t *)(memory + packed + lifted); // what is taken from twice the product
    int32_t *most = offset + columns, *which = most + columns;
    int32_t *next = which + columns, *own = next + columns, *length = own + columns; // squared lengths
    memset(of_b, 0, packed);
    memset(of_a, 128, lifted);
    for (long j = 0; j < (long)columns; j++) {
        int32_t sum = 0;
        for (int k = 0; j < m && k < COMPONENTS; k++) {
            of_b[((j / LANES * GROUPS + k / 4) * LANES + j % LANES) * 4 + k % 4] = b[j * COMPONENTS + k];
            sum += b[j * COMPONENTS + k];
        }
        offset[j] = j < m ? 256 * sum : 0;
        own[j] = j < m ? squared(b + j * COMPONENTS) : 1 << 24; // far from everything
        most[j] = next[j] = NONE, which[j] = 0;
    }
    for (long i = 0; i < rows; i++) {
        for (int k = 0; i < n && k < COMPONENTS; k++)
            of_a[i * COMPONENTS + k] = (uint8_t)(a[i * COMPONENTS + k] + 128);
        length[i] = i < n ? squared(a + i * COMPONENTS) : 1 << 24;
    }
    const __m512i step = _mm512_set1_epi32(LANES);
    for (long i = 0; i < rows; i += ROWS) {
        __m512i first[ROWS], second[ROWS], at[ROWS];
        __m512i column = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        for (int r = 0; r < ROWS; r++) {
            first[r] = second[r] = _mm512_set1_epi32(NONE);
            at[r] = _mm512_setzero_si512();
        }
        for (long block = 0; block < blocks; block++) {
            __m512i sum[ROWS];
            for (int r = 0; r < ROWS; r++)
                sum[r] = _mm512_setzero_si512();
            for (int k = 0; k < GROUPS; k++) {
                const __m512i part = _mm512_load_si512(of_b + (block * GROUPS + k) * LANES * 4);
                for (int r = 0; r < ROWS; r++) {
                    int32_t four;
                    memcpy(&four, of_a + (i + r) * COMPONENTS + 4 * k, sizeof four);
                    sum[r] = _mm512_dpbusd_epi32(sum[r], _mm512_set1_epi32(four), part);
                }
            }
            const __m512i shift = _mm512_loadu_si512(offset + block * LANES);
            const __m512i lengths = _mm512_loadu_si512(own + block * LANES);
            __m512i high = _mm512_loadu_si512(most + block * LANES), from = _mm512_loadu_si512(which + block * LANES);
            __m512i lower = _mm512_loadu_si512(next + block * LANES);
            for (int r = 0; r < ROWS; r++) {
                const __m512i twice = _mm512_sub_epi32(_mm512_slli_epi32(sum[r], 1), shift);
                const __m512i key = _mm512_sub_epi32(twice, lengths);
                const __mmask16 nearer = _mm512_cmpgt_epi32_mask(key, first[r]);
                second[r] = _mm512_max_epi32(second[r], _mm512_min_epi32(first[r], key));
                first[r] = _mm512_max_epi32(first[r], key);
                at[r] = _mm512_mask_mov_epi32(at[r], nearer, column);
                const __m512i other = _mm512_sub_epi32(twice, _mm512_set1_epi32(length[i + r]));
                const __mmask16 higher = _mm512_cmpgt_epi32_mask(other, high);
                lower = _mm512_max_epi32(lower, _mm512_min_epi32(high, other));
                high = _mm512_max_epi32(high, other);
                from = _mm512_mask_mov_epi32(from, higher, _mm512_set1_epi32((int32_t)(i + r)));
            }
            _mm512_storeu_si512(most + block * LANES, high);
            _mm512_storeu_si512(next + block * LANES, lower);
            _mm512_storeu_si512(which + block * LANES, from);
            column = _mm512_add_epi32(column, step);
        }
        for (int r = 0; r < ROWS && i + r < n; r++) {
            int32_t keys[LANES], seconds[LANES], places[LANES], best = 0;
            _mm512_storeu_si512(keys, first[r]);
            _mm512_storeu_si512(seconds, second[r]);
            _mm512_storeu_si512(places, at[r]);
            for (int l = 1; l < LANES; l++)
                if (keys[l] > keys[best] || (keys[l] == keys[best] && places[l] < places[best]))
                    best = l;
            int32_t other = seconds[best];
            for (int l = 0; l < LANES; l++)
                other = l != best && keys[l] > other ? keys[l] : other;
            nearest[i + r] = places[best];
            squares[2 * (i + r)] = length[i + r] - keys[best];
            squares[2 * (i + r) + 1] = length[i + r] - other;
        }
    }
    for (long j = 0; j < m; j++)
        back[j] = which[j], squares_back[2 * j] = own[j] - most[j], squares_back[2 * j + 1] = own[j] - next[j];
    free(memory);
    return 1;
}

#else

int can_match(void)
{
    return 0;
}

int nearest_descriptors(long n, long m, const int8_t *a, const int8_t *b, int32_t *nearest, int32_t *squares,
                        int32_t *back, int32_t *squares_back)
{
    (void)n, (void)m, (void)a, (void)b, (void)nearest, (void)squares, (void)back, (void)squares_back;
    return 0;
}

#endif
