// arch: x86_64
// flags: -mavx2 -mfma
// Int4 weights without VNNI: VPMADDUBSW (15 * 127 * 2 stays below saturation), VPMADDWD.
#define AB_ISA "avx2"
#define AB_FEATURES "avx2 fma"
#define LOOP "vpmaddubsw:8"
#define DOT(acc, u, s)                                                                             \
    _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)))

#include "../gemv_vnni.h"
