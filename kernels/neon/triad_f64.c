// arch: aarch64
// triad over large arrays; bytes and loop: ../memory_triad.h

#include "vector.h"

#include "../memory_triad.h"
