// Checks that a statement throws an error of a class with a message.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

// The message must contain `part`. One line only: that is what a user sees.
#define SKP_EXPECT_ERROR(statement, Class, part)                           \
  do {                                                                     \
    try {                                                                  \
      statement;                                                           \
      ADD_FAILURE() << #statement " threw nothing, expected " #Class;      \
    } catch (const Class& skp_error) {                                     \
      const std::string skp_message = skp_error.what();                    \
      EXPECT_THAT(skp_message, ::testing::HasSubstr(part));                \
      EXPECT_EQ(skp_message.find('\n'), std::string::npos) << skp_message; \
    }                                                                      \
  } while (false)
