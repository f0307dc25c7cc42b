#pragma once

#include <string>
#include <vector>

namespace skippipe {

// As many ports as asked for that were free on the loopback interface just now, as "127.0.0.1:port". Throws RunError.
std::vector<std::string> free_local_addresses(int count);

}  // namespace skippipe
