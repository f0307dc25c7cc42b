#include "engine/files/safetensors.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

const std::filesystem::path kGolden =
    std::filesystem::path(SKIPPIPE_SOURCE_DIR) / "tests/engine/golden/dtypes.safetensors";

std::string file_with(std::string header, std::string_view data, int64_t header_bytes = -1) {
  const auto length = static_cast<uint64_t>(header_bytes < 0 ? static_cast<int64_t>(header.size()) : header_bytes);
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data);
}

std::vector<float> read_f32(const SafetensorsFile& file, std::string_view name, const std::vector<int64_t>& shape) {
  std::vector<float> values(10);
  file.read_f32(name, shape, values);
  return values;
}

TEST(Safetensors, ReadsWhatPythonWrote) {
  const SafetensorsFile file(kGolden);
  EXPECT_EQ(file.metadata().at("made by"), "safetensors");
  EXPECT_EQ(file.metadata().at("ünï"), "cödé");
  EXPECT_EQ(file.tensors().size(), 7u);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const auto& [name, largest] :
       {std::pair("f32", 65504.0f), std::pair("f16", 65504.0f), std::pair("bf16", 65536.0f)}) {
    const auto values = read_f32(file, name, {10});
    const std::vector<float> expected = {0, -0.0f, 1, -1.5f, largest, 0x1p-24f, -0x1p-14f, infinity, -infinity};
    EXPECT_EQ(std::vector<float>(values.begin(), values.end() - 1), expected) << name;
    EXPECT_TRUE(std::signbit(values[1])) << name;
    EXPECT_TRUE(std::isnan(values[9])) << name;
  }
  const auto i32 = static_cast<size_t>(file.find("i32"));
  EXPECT_EQ(file.tensors()[i32].dtype, SafeDtype::kI32);
  EXPECT_EQ(file.tensors()[i32].shape, (std::vector<int64_t>{2, 3}));
  int32_t last = 0;
  std::memcpy(&last, file.data(i32).data() + 20, 4);
  EXPECT_EQ(last, 5);
  EXPECT_EQ(file.data(static_cast<size_t>(file.find("u8")))[2], std::byte{255});
  EXPECT_EQ(file.data(static_cast<size_t>(file.find("empty"))).size(), 0u);
  float scalar = 0;
  file.read_f32("scalar", {}, std::span(&scalar, 1));
  EXPECT_EQ(scalar, 2.5f);
  EXPECT_EQ(file.find("absent"), -1);
}

TEST(Safetensors, GivesBackWhatWasWritten) {
  const TempFolder folder;
  const std::vector<float> weights = {1, -2, 3.5f, 4, 5, 6};
  const std::vector<int32_t> counts = {7, 8};
  SafetensorsWriter writer(folder / "f",
                           {{"b.weight", SafeDtype::kF32, {2, 3}},
                            {"a \"quoted\" né", SafeDtype::kI32, {2}},
                            {"none", SafeDtype::kBf16, {0, 4}}},
                           {{"format", "pt"}});
  writer.write(std::span(weights));
  writer.write(std::as_bytes(std::span(counts)));
  writer.write(std::span<const std::byte>());
  writer.finish();
  const SafetensorsFile file(folder / "f");
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  std::vector<float> read(6);
  file.read_f32("b.weight", std::vector<int64_t>{2, 3}, read);
  EXPECT_EQ(read, weights);
  EXPECT_EQ(std::memcmp(file.data(static_cast<size_t>(file.find("a \"quoted\" né"))).data(), counts.data(), 8), 0);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, read_file(folder / "f").data(), 8);
  EXPECT_EQ(header_bytes % 8, 0u);
}

TEST(Safetensors, NothingStaysWithoutFinish) {
  const TempFolder folder;
  folder.write("f", "old");
  {
    SafetensorsWriter writer(folder / "f", {{"a", SafeDtype::kF32, {2}}});
    SKP_EXPECT_ERROR(writer.finish(), InternalError, "0 of 1 tensors were written");
  }
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(folder.files(), 1u);
  const auto write_named = [&](const char* a, const char* b) {
    SafetensorsWriter writer(folder / "f", {{a, SafeDtype::kF32, {1}}, {b, SafeDtype::kF32, {1}}});
  };
  SKP_EXPECT_ERROR(write_named("x", "x"), FileError, "two tensors are named 'x'");
  SKP_EXPECT_ERROR(write_named("x", "__metadata__"), FileError, "__metadata__");
}

TEST(Safetensors, ErrorsNameTensorFoundAndExpected) {
  const SafetensorsFile file(kGolden);
  SKP_EXPECT_ERROR(read_f32(file, "absent", {10}), FileError, "dtypes.safetensors: tensor 'absent' is missing");
  SKP_EXPECT_ERROR(read_f32(file, "f32", {2, 5}), FileError, "tensor 'f32' has the shape (10), expected (2, 5)");
  std::vector<float> six(6);
  SKP_EXPECT_ERROR(file.read_f32("f32", std::vector<int64_t>{10}, six), InternalError, "6 values for tensor 'f32'");
  SKP_EXPECT_ERROR(file.read_f32("i32", std::vector<int64_t>{2, 3}, six), FileError,
                   "tensor 'i32' is I32, expected F32, F16 or BF16");
}

TEST(Safetensors, NamesFilesThatAreSomethingElse) {
  const TempFolder folder;
  const auto open = [&](const std::string& bytes) { SafetensorsFile file(folder.write("f", bytes)); };
  SKP_EXPECT_ERROR(open("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 44\n"), FileError,
                   "f: not safetensors: found a Git LFS pointer");
  SKP_EXPECT_ERROR(open(std::string("PK\3\4\x14\0\0\0more", 12)), FileError, "f: not safetensors: found a zip archive");
  SKP_EXPECT_ERROR(open(""), FileError, "f: not safetensors: found nothing");
  // A sound file whose header is as long as the first bytes of a gzip file say.
  EXPECT_NO_THROW(open(file_with("{}" + std::string(0x8b1f - 2, ' '), "")));
}

TEST(Safetensors, RefusesLyingHeaders) {
  const TempFolder folder;
  const auto open = [&](const std::string& bytes) { SafetensorsFile file(folder.write("f", bytes)); };
  const auto tensor = [](std::string_view dtype, std::string_view shape, std::string_view offsets) {
    return fmt::format(R"("dtype":"{}","shape":{},"data_offsets":{})", dtype, shape, offsets);
  };
  const auto one = [&](std::string_view dtype, std::string_view shape, std::string_view offsets) {
    return fmt::format(R"({{"t":{{{}}}}})", tensor(dtype, shape, offsets));
  };
  EXPECT_NO_THROW(open(file_with(one("F32", "[2]", "[0,8]"), "12345678")));
  EXPECT_NO_THROW(open(file_with("{}", "")));

  SKP_EXPECT_ERROR(open("1234567"), FileError, "f: 7 bytes, too short");
  SKP_EXPECT_ERROR(open(file_with("{}", "", 3)), FileError, "a header of 3 bytes in a file of 10");
  SKP_EXPECT_ERROR(open(file_with("{}", "", 1 << 30)), FileError, "a header of 1073741824 bytes, expected at most");
  SKP_EXPECT_ERROR(open(file_with("{}", "", std::numeric_limits<int64_t>::max())), FileError, "expected at most");
  SKP_EXPECT_ERROR(open(std::string(8, '\xff') + "{}"), FileError, "expected at most");
  SKP_EXPECT_ERROR(open(file_with("{]", "")), FileError, "not valid JSON");
  SKP_EXPECT_ERROR(open(file_with("[]", "")), FileError, "expected an object");
  SKP_EXPECT_ERROR(open(file_with(std::string(100000, '['), "")), FileError, "nested deeper");

  SKP_EXPECT_ERROR(open(file_with(one("F31", "[2]", "[0,8]"), "12345678")), FileError, "t.dtype: found \"F31\"");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "[-2]", "[0,8]"), "12345678")), FileError, "t.shape[0]: found -2");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "[2.5]", "[0,8]"), "12345678")), FileError, "found 2.5");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "2", "[0,8]"), "12345678")), FileError, "expected an array");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2]", "[0,8]"), "12345678")), FileError,
                   "at most 16 dimensions");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "[4294967296,4294967296]", "[0,8]"), "12345678")), FileError,
                   "negative or too large");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "[0,9223372036854775807,3]", "[0,0]"), "")), FileError,
                   "negative or too large");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "[3]", "[0,8]"), "12345678")), FileError,
                   "tensor 't' has 8 bytes, expected 12 for F32 (3)");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "[2]", "[0,8,9]"), "12345678")), FileError, "expected begin and end");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "[2]", "[8,0]"), "12345678")), FileError, "lies at 8 to 0");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "[2]", "[0,8]"), "1234567")), FileError, "expected within the 7 bytes");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "[2]", "[0,18446744073709551615]"), "12345678")), FileError,
                   "expected an integer");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "[2]", "[4,12]"), "123456789012")), FileError, "begins at 4, expected 0");
  SKP_EXPECT_ERROR(open(file_with(one("F32", "[2]", "[0,8]"), "123456789")), FileError, "9 bytes of data, expected 8");
  SKP_EXPECT_ERROR(open(file_with(R"({"t":{"dtype":"F32","shape":[2]}})", "12345678")), FileError,
                   "field 'data_offsets' is missing");
  SKP_EXPECT_ERROR(open(file_with(R"({"t":[]})", "")), FileError, "expected an object");
  SKP_EXPECT_ERROR(open(file_with(R"({"__metadata__":{"a":1}})", "")), FileError,
                   "__metadata__.a: found 1, expected a string");
  const std::string t = "{" + tensor("U8", "[2]", "[0,2]") + "}";
  const std::string u = "{" + tensor("U8", "[2]", "[1,3]") + "}";
  SKP_EXPECT_ERROR(open(file_with("{\"t\":" + t + ",\"t\":" + t + "}", "12")), FileError, "stands twice");
  SKP_EXPECT_ERROR(open(file_with("{\"t\":" + t + ",\"u\":" + u + "}", "123")), FileError,
                   "tensor 'u' begins at 1, expected 2");
}

// Truncated or damaged anywhere: an error, or a file that still holds together.
TEST(Safetensors, SurvivesDamage) {
  const TempFolder folder;
  const std::string good = read_file(kGolden);
  for (size_t size = 0; size < good.size(); size += 3)
    EXPECT_THROW(SafetensorsFile file(folder.write("f", good.substr(0, size))), FileError) << size;
  for (uint64_t seed = 0; seed < 500; ++seed) {
    Random random(seed);
    std::string damaged = good;
    for (int flips = 0; flips < 2; ++flips)
      damaged[random.below(damaged.size())] = static_cast<char>(random.below(256));
    try {
      const SafetensorsFile file(folder.write("f", damaged));
      size_t bytes = 0;
      for (size_t i = 0; i < file.tensors().size(); ++i) bytes += file.data(i).size();
      EXPECT_LT(bytes, damaged.size()) << "seed " << seed;
    } catch (const FileError&) {
    }
  }
}

}  // namespace
}  // namespace skippipe
