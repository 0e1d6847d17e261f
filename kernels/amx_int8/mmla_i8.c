// arch: x86_64
// flags: -mamx-tile -mamx-int8
// TDPBSSD on tiles that stay: 16x16 sums of 64 bytes each.
#define AB_ISA "amx_int8"
#define AB_FEATURES "amx_tile amx_int8"
#define TYPE "i8"
#define LOOP "tdpbssd:4"
#define IN AB_I8
#define WHOLE 1
#define OPS 32768
#define FILL(to, bytes, seed) ab_fill_i8(to, bytes, -127, seed)
#define TDP _tile_dpbssd

#include "../amx_register.h"
