// arch: x86_64
// flags: -mavx2 -mfma -mavxvnni
// Int4 weights by VPDPBUSD on 32-byte registers.
#define AB_ISA "avx_vnni"
#define AB_FEATURES "avx2 fma avx_vnni"
#define LOOP "vpdpbusd:8"
#define DOT(acc, u, s) _mm256_dpbusd_avx_epi32(acc, u, s)

#include "../gemv_vnni.h"
