// arch: x86_64
// flags: -mavx512f
// copy over large arrays; bytes and loop: ../memory_copy.h

#include "vector.h"

#include "../memory_copy.h"
