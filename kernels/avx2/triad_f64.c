// arch: x86_64
// flags: -mavx2 -mfma
// triad over large arrays; bytes and loop: ../memory_triad.h

#include "vector.h"

#include "../memory_triad.h"
