/* Portable answers that every kernel is held against, and the numbers it is fed.
 * All operands are small whole numbers (scales are quarters), so that sums are exact in every
 * order and equality is the test. */
#include "armbench.h"

uint64_t ab_random(uint64_t *state)
{
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint16_t ab_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float ab_from_bf16(uint16_t value)
{
    uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

void ab_fill_doubles(unsigned char *to, size_t bytes, uint64_t seed)
{
    uint64_t state = seed;
    for (size_t at = 0; at < bytes; at += sizeof(double)) {
        double value = (double)(ab_random(&state) & 1023);
        size_t part = bytes - at < sizeof value ? bytes - at : sizeof value;
        memcpy(to + at, &value, part);
    }
}

void ab_fill_i8(unsigned char *to, size_t count, int low, uint64_t seed)
{
    uint64_t state = seed;
    for (size_t i = 0; i < count; i++) {
        int8_t value = (int8_t)(low + (int)(ab_random(&state) % (uint64_t)(128 - low)));
        memcpy(to + i, &value, 1);
    }
}

void ab_fill_i16(unsigned char *to, size_t count, uint64_t seed)
{
    uint64_t state = seed;
    for (size_t i = 0; i < count; i++) {
        int16_t value = (int16_t)((int)(ab_random(&state) % 401) - 200);
        memcpy(to + 2 * i, &value, 2);
    }
}

static float small_whole(uint64_t *state) { return (float)((int)(ab_random(state) % 9) - 4); }

void ab_fill_f32(unsigned char *to, size_t count, uint64_t seed)
{
    uint64_t state = seed;
    for (size_t i = 0; i < count; i++) {
        float value = small_whole(&state);
        memcpy(to + 4 * i, &value, 4);
    }
}

void ab_fill_bf16(unsigned char *to, size_t count, uint64_t seed)
{
    uint64_t state = seed;
    for (size_t i = 0; i < count; i++) {
        uint16_t value = ab_to_bf16(small_whole(&state));
        memcpy(to + 2 * i, &value, 2);
    }
}

uint64_t ab_ref_xor(const unsigned char *from, size_t bytes)
{
    uint64_t all = 0;
    for (size_t i = 0; i < bytes; i++)
        all ^= (uint64_t)from[i] << (8 * (i % 8));
    return all;
}

int ab_ref_copy(const unsigned char *from, const unsigned char *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (from[i] != to[i])
            return 1;
    return 0;
}

int ab_ref_triad(const unsigned char *a, const unsigned char *b, const unsigned char *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double x, y, z;
        memcpy(&x, a + 8 * i, 8);
        memcpy(&y, b + 8 * i, 8);
        memcpy(&z, c + 8 * i, 8);
        if (z != x + AB_TRIAD_FACTOR * y)
            return 1;
    }
    return 0;
}

int ab_ref_write(const unsigned char *to, size_t bytes)
{
    const uint64_t pattern = AB_PATTERN;
    for (size_t i = 0; i < bytes; i++)
        if (to[i] != ((const unsigned char *)&pattern)[i % 8])
            return 1;
    return 0;
}

static double number(enum ab_type type, const unsigned char *from, size_t i)
{
    if (type == AB_F32) {
        float value;
        memcpy(&value, from + 4 * i, 4);
        return value;
    }
    if (type == AB_BF16) {
        uint16_t value;
        memcpy(&value, from + 2 * i, 2);
        return ab_from_bf16(value);
    }
    return (double)((const int8_t *)from)[i];
}

size_t ab_type_bytes(enum ab_type type) { return type == AB_F32 ? 4 : type == AB_BF16 ? 2 : 1; }

static double products(enum ab_type type, const unsigned char *x, const unsigned char *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += number(type, x, i) * number(type, y, i);
    return sum;
}

static double dot_i16(const unsigned char *x, const unsigned char *y)
{
    int16_t p[2], q[2];
    memcpy(p, x, 4);
    memcpy(q, y, 4);
    return (double)p[0] * q[0] + (double)p[1] * q[1];
}

/* What one turn adds to 32-bit lane `lane`. */
static double increment(enum ab_lanes kind, const unsigned char *x, const unsigned char *y,
                        size_t lane)
{
    const size_t at = 4 * lane, segment = lane / 4 * 16;
    const unsigned char *row = x + segment + lane % 4 / 2 * 8, *column = y + segment + lane % 2 * 8;
    switch (kind) {
    case AB_LANES_F32:
        return products(AB_F32, x + at, y + at, 1);
    case AB_LANES_BF16_DOT:
        return products(AB_BF16, x + at, y + at, 2);
    case AB_LANES_I8_DOT:
        return products(AB_I8, x + at, y + at, 4);
    case AB_LANES_I16_DOT:
        return dot_i16(x + at, y + at);
    case AB_LANES_BF16_MMLA:
        return products(AB_BF16, row, column, 4);
    case AB_LANES_I8_MMLA:
        return products(AB_I8, row, column, 8);
    }
    return 0;
}

int ab_ref_lanes(enum ab_lanes kind, const unsigned char *x, const unsigned char *y,
                 const unsigned char *sum, size_t vector_bytes, uint64_t rounds)
{
    const int whole = kind == AB_LANES_I8_DOT || kind == AB_LANES_I8_MMLA || kind == AB_LANES_I16_DOT;
    for (size_t lane = 0; lane < vector_bytes / 4; lane++) {
        double want = (double)rounds * increment(kind, x, y, lane), got;
        int32_t integer;
        float real;
        memcpy(&integer, sum + 4 * lane, 4);
        memcpy(&real, sum + 4 * lane, 4);
        got = whole ? (double)integer : (double)real;
        if (got != want)
            return 1;
    }
    return 0;
}

static size_t packed_at(size_t line, size_t k, size_t panel, size_t unit, size_t k_padded)
{
    return line / panel * panel * k_padded + k / unit * panel * unit + line % panel * unit + k % unit;
}

void ab_pack(unsigned char *to, enum ab_type type, size_t lines, size_t k, size_t panel,
             size_t unit, size_t k_multiple, int low, uint64_t seed)
{
    const size_t width = ab_type_bytes(type), padded = ab_round_up(k, k_multiple);
    uint64_t state = seed;
    memset(to, 0, ab_round_up(lines, panel) * padded * width);
    for (size_t line = 0; line < lines; line++)
        for (size_t i = 0; i < k; i++) {
            unsigned char *at = to + packed_at(line, i, panel, unit, padded) * width;
            uint64_t next = ab_random(&state);
            if (type == AB_F32)
                ab_fill_f32(at, 1, next);
            else if (type == AB_BF16)
                ab_fill_bf16(at, 1, next);
            else
                ab_fill_i8(at, 1, low, next);
        }
}

double ab_packed(const unsigned char *from, enum ab_type type, size_t line, size_t k,
                 size_t panel, size_t unit, size_t k_padded)
{
    return number(type, from, packed_at(line, k, panel, unit, k_padded));
}

double ab_ref_gemv(const unsigned char *nibbles, const float *scales, const int8_t *x,
                   const float *x_scales, size_t groups)
{
    double sum = 0;
    for (size_t g = 0; g < groups; g++) {
        double part = 0;
        for (size_t i = 0; i < AB_GROUP; i++) {
            unsigned char byte = nibbles[g * 16 + i % 16];
            part += ((int)(i < 16 ? byte & 15 : byte >> 4) - 8) * (double)x[g * AB_GROUP + i];
        }
        sum += part * scales[g] * x_scales[g];
    }
    return sum;
}
