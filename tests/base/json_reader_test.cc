#include "base/json_reader.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

class JsonReaderTest : public ::testing::Test {
 protected:
  const nlohmann::json document_ = parse_json(
      R"({"name": "n", "on": true, "i": 7, "neg": -3, "big": 18446744073709551615, "x": 2.5, "none": null,
          "list": [{"a": 1}, {"a": "one"}], "nested": {"deep": {"value": []}}})",
      "f.json");
  const JsonReader root_{document_, "f.json"};
};

TEST_F(JsonReaderTest, ReadsFields) {
  EXPECT_EQ(root_.at("name").as_string(), "n");
  EXPECT_TRUE(root_.at("on").as_bool());
  EXPECT_EQ(root_.at("i").as_int(7, 7), 7);
  EXPECT_EQ(root_.at("neg").as_int(), -3);
  EXPECT_EQ(root_.at("x").as_double(), 2.5);
  EXPECT_EQ(root_.at("i").as_double(), 7.0);
  EXPECT_EQ(root_.at("list").items().at(0).at("a").as_int(), 1);
  EXPECT_EQ(root_.at("nested").keys(), std::vector<std::string>{"deep"});
}

TEST_F(JsonReaderTest, AbsentAndNullFieldsTakeTheDefault) {
  EXPECT_FALSE(root_.find("none"));
  EXPECT_FALSE(root_.find("absent"));
  EXPECT_EQ(root_.get_int("absent", 5, 0, 9), 5);
  EXPECT_EQ(root_.get_string("none", "d"), "d");
  EXPECT_EQ(root_.get_double("x", 0, 0, 9), 2.5);
  EXPECT_TRUE(root_.get_bool("on", false));
  SKP_EXPECT_ERROR(root_.get_int("name", 5, 0, 9), FileError, "f.json: name");
}

TEST_F(JsonReaderTest, ErrorsNameFileFieldFoundAndExpected) {
  SKP_EXPECT_ERROR(root_.at("absent"), FileError, "f.json: field 'absent' is missing");
  SKP_EXPECT_ERROR(root_.at("i").as_string(), FileError, "f.json: i: found 7, expected a string");
  SKP_EXPECT_ERROR(root_.at("i").as_int(8, 9), FileError, "f.json: i: found 7, expected an integer from 8 to 9");
  SKP_EXPECT_ERROR(root_.at("x").as_int(), FileError, "found 2.5, expected an integer");
  SKP_EXPECT_ERROR(root_.at("big").as_int(), FileError, "found 18446744073709551615, expected an integer");
  SKP_EXPECT_ERROR(root_.at("name").as_double(), FileError, "expected a number");
  SKP_EXPECT_ERROR(root_.at("x").as_double(3, 4), FileError, "expected a number from 3 to 4");
  SKP_EXPECT_ERROR(root_.at("i").as_bool(), FileError, "expected true or false");
  SKP_EXPECT_ERROR(root_.at("list").items().at(1).at("a").as_int(), FileError, "f.json: list[1].a: found \"one\"");
  SKP_EXPECT_ERROR(root_.at("nested").at("deep").items(), FileError, "f.json: nested.deep: found an object");
  SKP_EXPECT_ERROR(root_.at("list").keys(), FileError, "found an array of 2, expected an object");
  SKP_EXPECT_ERROR(root_.at("i").at("x"), FileError, "expected an object with 'x'");
}

TEST_F(JsonReaderTest, UnknownFieldsAreRefused) {
  const std::vector<std::string> known = {"name", "on", "i", "neg", "big", "x", "none", "list", "nested"};
  EXPECT_NO_THROW(root_.allow_only(known));
  SKP_EXPECT_ERROR(root_.at("list").items().at(0).allow_only({"b"}), FileError, "f.json: list[0]: unknown field 'a'");
  SKP_EXPECT_ERROR(root_.at("nested").allow_only({"depp", "wide"}), FileError,
                   "f.json: nested: unknown field 'deep'; did you mean 'depp'?");
  SKP_EXPECT_ERROR(root_.at("i").allow_only({}), FileError, "expected an object");
  const nlohmann::json noted = parse_json(R"({"_note": "mine", "a": 1})", "f.json");
  EXPECT_NO_THROW(JsonReader(noted, "f.json").allow_only({"a"}));
}

TEST_F(JsonReaderTest, LongValuesAreCutInErrors) {
  const nlohmann::json document = parse_json("{\"s\": \"" + std::string(1000, 'x') + "\"}", "f.json");
  try {
    JsonReader(document, "f.json").at("s").as_int();
    FAIL();
  } catch (const FileError& error) {
    EXPECT_LT(std::string(error.what()).size(), 120u);
  }
}

TEST(ParseJson, RefusesHostileText) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse_json(nested(60), "f"));
  SKP_EXPECT_ERROR(parse_json(nested(70), "f"), FileError, "f: nested deeper than 64 levels");
  SKP_EXPECT_ERROR(parse_json(nested(1000000), "f"), FileError, "nested deeper");
  SKP_EXPECT_ERROR(parse_json(std::string(1000000, '['), "f"), FileError, "nested deeper");
  SKP_EXPECT_ERROR(parse_json(R"({"a": 1, "b": {"a": 1}, "a": 2})", "f"), FileError, "key 'a' stands twice");
  EXPECT_NO_THROW(parse_json(R"({"a": 1, "b": {"a": 1}, "c": [{"a": 1}, {"a": 1}]})", "f"));
  for (const char* text :
       {"", "{", "{\"a\":}", "[1,]", "nul", "{} x", "// c\n{}", "{'a': 1}", "\"\xff\"", "\"\\ud800\"", "NaN", "1e999"})
    EXPECT_THROW(parse_json(text, "f"), FileError) << text;
}

TEST(LoadJson, NamesTheFile) {
  const TempFolder folder;
  SKP_EXPECT_ERROR(load_json(folder.write("bad.json", "{\"a\": tru}")), FileError, "bad.json: not valid JSON");
  SKP_EXPECT_ERROR(load_json(folder.write("big.json", "[1, 2, 3]"), 4), FileError, "9 bytes, expected at most 4");
  EXPECT_EQ(load_json(folder.write("good.json", "[1]")).size(), 1u);
}

}  // namespace
}  // namespace skippipe
