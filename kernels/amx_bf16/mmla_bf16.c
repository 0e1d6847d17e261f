// arch: x86_64
// flags: -mamx-tile -mamx-bf16
// TDPBF16PS on tiles that stay: 16x16 sums of 64 bytes each.
#define AB_ISA "amx_bf16"
#define AB_FEATURES "amx_tile amx_bf16"
#define TYPE "bf16"
#define LOOP "tdpbf16ps:4"
#define IN AB_BF16
#define WHOLE 0
#define OPS 16384
#define FILL(to, bytes, seed) ab_fill_bf16(to, (bytes) / 2, seed)
#define TDP _tile_dpbf16ps

#include "../amx_register.h"
