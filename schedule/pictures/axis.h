// Ticks of a drawn axis.
#pragma once

namespace skippipe {

struct Ticks {
  double distance = 1;  // 1, 2 or 5 times a power of ten
  int decimals = 0;     // that its multiples need
};

// So that about `count` ticks, and no more than count + 1, cover `length` > 0.
Ticks ticks_for(double length, int count);

}  // namespace skippipe
