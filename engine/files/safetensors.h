// Tensors in files that Hugging Face's safetensors reads and writes: 8 bytes of header length, a JSON header with name,
// dtype, shape and place of every tensor, and the tensors' bytes.
// Source: https://github.com/huggingface/safetensors, "Format".
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/file_writer.h"

struct XXH3_state_s;

namespace skippipe {

enum class SafeDtype : uint8_t { kF64, kF32, kF16, kBf16, kI64, kI32, kI16, kI8, kU8, kBool };
const char* safe_dtype_name(SafeDtype dtype);  // "BF16"
int64_t safe_dtype_bytes(SafeDtype dtype);
bool is_float(SafeDtype dtype);  // F32, F16 or BF16: what weights may be

struct SafeTensor {
  std::string name;
  SafeDtype dtype = SafeDtype::kF32;
  std::vector<int64_t> shape;

  // Throws FileError if an extent is negative or the size overflows.
  uint64_t bytes() const;
};

// A memory-mapped file. Believes nothing: header length, JSON, dtypes, shapes and places are checked, the tensors cover
// the data without gap or overlap. Immutable, so any thread may use it.
class SafetensorsFile {
 public:
  // Longer headers are refused (a thousand layers need less than 1 MiB).
  static constexpr uint64_t kMaxHeaderBytes = 32 << 20;
  static constexpr size_t kMaxTensorRank = 16;

  // Throws FileError naming the file, the tensor, what was found and what was expected.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // In the order of their data.
  const std::vector<SafeTensor>& tensors() const { return tensors_; }
  // Index in tensors(), or -1.
  int64_t find(std::string_view name) const;
  // The tensor's bytes, little-endian, row-major; not aligned. Valid as long as this object.
  std::span<const std::byte> data(size_t index) const;

  // The index of a tensor of F32, F16 or BF16. Throws FileError if it is missing or has another shape or dtype.
  size_t require(std::string_view name, std::span<const int64_t> shape) const;
  // Reads such a tensor as f32. Throws FileError as above.
  void read_f32(std::string_view name, std::span<const int64_t> shape, std::span<float> values) const;
  // The same piece by piece, through `buffer`: takes no more memory than that, however large the tensor is.
  void stream_f32(std::string_view name, std::span<const int64_t> shape, std::span<float> buffer,
                  const std::function<void(std::span<const float>)>& sink) const;
  // Whether two tensors hold the same values under different names: dtype, shape and bytes. Neither stays in memory.
  bool equal(size_t index, const SafetensorsFile& other, size_t other_index) const;

 private:
  void read_header();

  std::filesystem::path path_;
  MappedFile file_;
  uint64_t data_offset_ = 0;
  std::map<std::string, std::string> metadata_;
  std::vector<SafeTensor> tensors_;
  std::vector<uint64_t> begins_;  // of the tensors' data, behind data_offset_
  std::map<std::string, size_t, std::less<>> index_;
};

// Writes a file tensor by tensor under a temporary name; finish() publishes it, and without finish() nothing stays. The
// header is a multiple of 8 bytes. One thread. Throws FileError.
class SafetensorsWriter {
 public:
  // The tensors that will be written, in their order. Throws FileError on a repeated or reserved name.
  SafetensorsWriter(const OutputPath& path, std::vector<SafeTensor> tensors,
                    const std::map<std::string, std::string>& metadata = {});

  // The bytes of the next tensor, all of them or the next piece of them.
  void write(std::span<const std::byte> bytes);
  // Its values, rounded to the tensor's dtype: F32, F16 or BF16. Throws FileError if a finite one is too large for it.
  void write(std::span<const float> values);
  // Every tensor must have been written.
  void finish();

  // Of the file so far; of all of it after finish.
  uint64_t bytes() const { return file_.bytes_written(); }
  uint64_t xxh3() const;  // XXH3 with 64 bits, seed 0

 private:
  struct FreeHash {
    void operator()(XXH3_state_s* state) const;
  };
  void append(std::span<const std::byte> bytes);
  void skip_complete();

  std::filesystem::path name_;
  std::vector<SafeTensor> tensors_;
  size_t next_ = 0;             // the tensor being written
  uint64_t written_bytes_ = 0;  // of it
  std::vector<uint16_t> narrowed_;
  FileWriter file_;
  std::unique_ptr<XXH3_state_s, FreeHash> hash_;
};

}  // namespace skippipe
