// arch: aarch64
// flags: -march=armv8.2-a+sve
// copy over large arrays; bytes and loop: ../memory_copy.h

#include "vector.h"

#include "../memory_copy.h"
