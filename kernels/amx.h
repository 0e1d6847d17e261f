/* Tiles of AMX: eight of 16 rows by 64 bytes, once the kernel has given leave to use them. */
#ifndef ARMBENCH_AMX_H
#define ARMBENCH_AMX_H

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "armbench.h"

enum { ROW = 64, TILE = 16 * ROW, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };

static inline const char *amx_allow(void)
{
    if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA))
        return "the kernel does not let this process use AMX tiles";
    return NULL;
}

/* Tile configuration belongs to a thread, so every run begins with it. */
AB_INLINE void amx_begin(void)
{
    unsigned char config[64] = {1};
    for (int i = 0; i < 8; i++) {
        config[16 + 2 * i] = ROW;
        config[48 + i] = 16;
    }
    __asm__ volatile("" : : "r"(config) : "memory"); /* the intrinsic names only its first word */
    _tile_loadconfig(config);
}

#endif
