#include "exports.h"

EXPORT_ALL(float64, double)
