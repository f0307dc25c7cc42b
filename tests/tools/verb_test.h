// The `skippipe` program on a folder of the test's own.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>

#include "tests/temp_folder.h"
#include "tests/tools/run_program.h"

namespace skippipe {

class VerbTest : public ::testing::Test {
 protected:
  // As run_skippipe, with @ in the arguments for the test's folder and % for a model that transformers wrote.
  ProgramResult run(const std::string& arguments, const std::string& input = "/dev/null",
                    const std::string& before = "") const {
    std::string text;
    for (const char c : arguments)
      text += c == '@'   ? folder_.path().string()
              : c == '%' ? SKIPPIPE_SOURCE_DIR "/tests/engine/golden/sharded"
                         : std::string(1, c);
    return run_skippipe(text, input, before);
  }
  void expect_ok(const std::string& arguments, const std::string& part) const {
    const ProgramResult result = run(arguments);
    EXPECT_EQ(result.exit_code, 0) << arguments << "\n" << result.output;
    EXPECT_THAT(result.output, ::testing::HasSubstr(part));
  }
  // One line that says what is wrong, and nothing else.
  void expect_refused(const std::string& arguments, const std::string& part) const {
    const ProgramResult result = run(arguments);
    EXPECT_EQ(result.exit_code, 1) << arguments << "\n" << result.output;
    EXPECT_THAT(result.output, ::testing::HasSubstr(part));
    EXPECT_EQ(std::ranges::count(result.output, '\n'), 1) << result.output;
    EXPECT_TRUE(result.output.starts_with("skippipe: ")) << result.output;
  }

  const TempFolder folder_;
};

}  // namespace skippipe
