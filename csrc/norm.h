// What norms of rows and of groups share.
#pragma once

#include "common.h"

namespace ecgtwin {

template <typename C>
struct Moments {
  C mean, rstd;
};

// Gradient of a norm's input, given that of the normed elements, g, and the means of g and of g * normed.
template <typename C>
ECGTWIN_INLINE C norm_gradient(C g, C normed, C mean_g, C mean_g_normed, C rstd) {
  return rstd * (g - mean_g - normed * mean_g_normed);
}

}  // namespace ecgtwin
