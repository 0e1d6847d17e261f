// arch: x86_64
// flags: -mavx2 -mfma
// copy over large arrays; bytes and loop: ../memory_copy.h

#include "vector.h"

#include "../memory_copy.h"
