#include "exports.h"

EXPORT_ALL(float32, float)
