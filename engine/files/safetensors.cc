#include "engine/files/safetensors.h"

#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file_kind.h"
#include "base/float_formats.h"
#include "base/json_reader.h"

namespace skippipe {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are written as they lie in memory");

constexpr uint64_t kLengthBytes = 8;
constexpr char kMetadataKey[] = "__metadata__";

struct DtypeEntry {
  SafeDtype dtype;
  const char* name;
  int64_t bytes;
};
constexpr std::array<DtypeEntry, 10> kDtypes = {{{SafeDtype::kF64, "F64", 8},
                                                 {SafeDtype::kF32, "F32", 4},
                                                 {SafeDtype::kF16, "F16", 2},
                                                 {SafeDtype::kBf16, "BF16", 2},
                                                 {SafeDtype::kI64, "I64", 8},
                                                 {SafeDtype::kI32, "I32", 4},
                                                 {SafeDtype::kI16, "I16", 2},
                                                 {SafeDtype::kI8, "I8", 1},
                                                 {SafeDtype::kU8, "U8", 1},
                                                 {SafeDtype::kBool, "BOOL", 1}}};

const DtypeEntry& entry_of(SafeDtype dtype) { return kDtypes[static_cast<size_t>(dtype)]; }

SafeDtype read_dtype(const JsonReader& field) {
  const std::string name = field.as_string();
  for (const DtypeEntry& entry : kDtypes)
    if (name == entry.name) return entry.dtype;
  field.fail("one of F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL");
}

std::vector<int64_t> read_shape(const JsonReader& field) {
  const auto items = field.items();
  if (items.size() > SafetensorsFile::kMaxTensorRank)
    field.fail(fmt::format("at most {} dimensions", SafetensorsFile::kMaxTensorRank));
  std::vector<int64_t> shape;
  for (const JsonReader& item : items) shape.push_back(item.as_int(0));
  return shape;
}

// Throws FileError if an extent is negative or the product overflows. A zero makes the product zero whatever the other
// extents are, but they must still be sane.
uint64_t byte_count(const SafeTensor& tensor, const std::string& where) {
  constexpr uint64_t kMaxBytes = uint64_t{1} << 62;
  auto bytes = static_cast<uint64_t>(safe_dtype_bytes(tensor.dtype));
  bool zero = false;
  for (const int64_t extent : tensor.shape) {
    zero = zero || extent == 0;
    const bool overflow =
        extent < 0 || __builtin_mul_overflow(bytes, std::max<uint64_t>(static_cast<uint64_t>(extent), 1), &bytes);
    if (overflow || bytes > kMaxBytes)
      throw FileError("{} has the shape ({}), which is negative or too large", where, fmt::join(tensor.shape, ", "));
  }
  return zero ? 0 : bytes;
}

struct Place {
  SafeTensor tensor;
  uint64_t begin = 0;
  uint64_t end = 0;
};

Place read_place(const JsonReader& field, const std::string& name) {
  Place place;
  place.tensor = {name, read_dtype(field.at("dtype")), read_shape(field.at("shape"))};
  const JsonReader offsets = field.at("data_offsets");
  const auto items = offsets.items();
  if (items.size() != 2) offsets.fail("begin and end");
  place.begin = static_cast<uint64_t>(items[0].as_int(0));
  place.end = static_cast<uint64_t>(items[1].as_int(0));
  return place;
}

// Sorts by place; throws FileError unless the tensors cover the data without gap or overlap.
void check_places(std::vector<Place>& places, uint64_t data_bytes, const std::string& file) {
  std::stable_sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t expected_begin = 0;
  for (const Place& place : places) {
    const std::string where = fmt::format("{}: tensor '{}'", file, place.tensor.name);
    if (place.end < place.begin || place.end > data_bytes)
      throw FileError("{} lies at {} to {}, expected within the {} bytes of data", where, place.begin, place.end,
                      data_bytes);
    if (place.begin != expected_begin)
      throw FileError("{} begins at {}, expected {}, where the one before ends", where, place.begin, expected_begin);
    const uint64_t bytes = byte_count(place.tensor, where);
    if (place.end - place.begin != bytes)
      throw FileError("{} has {} bytes, expected {} for {} ({})", where, place.end - place.begin, bytes,
                      safe_dtype_name(place.tensor.dtype), fmt::join(place.tensor.shape, ", "));
    expected_begin = place.end;
  }
  if (expected_begin != data_bytes)
    throw FileError("{}: {} bytes of data, expected {}, where the last tensor ends", file, data_bytes, expected_begin);
}

void widen_halves(std::span<const std::byte> bytes, float (*convert)(uint16_t), std::span<float> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, bytes.data() + 2 * i, sizeof bits);
    values[i] = convert(bits);
  }
}

void widen(std::span<const std::byte> bytes, SafeDtype dtype, std::span<float> values) {
  if (values.empty()) return;
  if (dtype == SafeDtype::kF32)
    std::memcpy(values.data(), bytes.data(), bytes.size());
  else
    widen_halves(bytes, dtype == SafeDtype::kF16 ? f16_to_float : bf16_to_float, values);
}

std::string header_of(const std::vector<SafeTensor>& tensors, const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  uint64_t begin = 0;
  for (const SafeTensor& tensor : tensors) {
    const uint64_t end = begin + tensor.bytes();
    header[tensor.name] = {
        {"dtype", safe_dtype_name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

}  // namespace

const char* safe_dtype_name(SafeDtype dtype) { return entry_of(dtype).name; }
int64_t safe_dtype_bytes(SafeDtype dtype) { return entry_of(dtype).bytes; }
bool is_float(SafeDtype dtype) {
  return dtype == SafeDtype::kF32 || dtype == SafeDtype::kF16 || dtype == SafeDtype::kBf16;
}

uint64_t SafeTensor::bytes() const { return byte_count(*this, fmt::format("tensor '{}'", name)); }

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path), file_(path) {
  const std::string_view bytes(reinterpret_cast<const char*>(file_.bytes().data()), file_.bytes().size());
  naming_foreign_files(bytes, path.string(), "safetensors", [&] { read_header(); });
}

void SafetensorsFile::read_header() {
  const std::string name = path_.string();
  const auto bytes = file_.bytes();
  if (bytes.size() < kLengthBytes) throw FileError("{}: {} bytes, too short for safetensors", name, bytes.size());
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  if (header_bytes > kMaxHeaderBytes)
    throw FileError("{}: a header of {} bytes, expected at most {}", name, header_bytes, kMaxHeaderBytes);
  if (header_bytes > bytes.size() - kLengthBytes)
    throw FileError("{}: a header of {} bytes in a file of {}", name, header_bytes, bytes.size());
  data_offset_ = kLengthBytes + header_bytes;

  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, header_bytes);
  const nlohmann::json header = parse_json(text, name);
  const JsonReader root(header, name);
  std::vector<Place> places;
  for (const std::string& key : root.keys()) {
    const JsonReader field = root.at(key);
    if (key == kMetadataKey) {
      for (const std::string& entry : field.keys()) metadata_[entry] = field.at(entry).as_string();
    } else {
      places.push_back(read_place(field, key));
    }
  }
  check_places(places, bytes.size() - data_offset_, name);
  for (Place& place : places) {
    index_[place.tensor.name] = tensors_.size();
    begins_.push_back(place.begin);
    tensors_.push_back(std::move(place.tensor));
  }
}

int64_t SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? -1 : static_cast<int64_t>(found->second);
}

std::span<const std::byte> SafetensorsFile::data(size_t index) const {
  return file_.bytes().subspan(data_offset_ + begins_.at(index), tensors_[index].bytes());
}

size_t SafetensorsFile::require(std::string_view name, std::span<const int64_t> shape) const {
  const int64_t index = find(name);
  if (index < 0) throw FileError("{}: tensor '{}' is missing", path_.string(), name);
  const SafeTensor& tensor = tensors_[static_cast<size_t>(index)];
  if (!std::ranges::equal(tensor.shape, shape))
    throw FileError("{}: tensor '{}' has the shape ({}), expected ({})", path_.string(), name,
                    fmt::join(tensor.shape, ", "), fmt::join(shape, ", "));
  if (!is_float(tensor.dtype))
    throw FileError("{}: tensor '{}' is {}, expected F32, F16 or BF16", path_.string(), name,
                    safe_dtype_name(tensor.dtype));
  return static_cast<size_t>(index);
}

void SafetensorsFile::read_f32(std::string_view name, std::span<const int64_t> shape, std::span<float> values) const {
  const size_t index = require(name, shape);
  const auto bytes = data(index);
  const SafeDtype dtype = tensors_[index].dtype;
  SKP_CHECK(values.size() == bytes.size() / static_cast<size_t>(safe_dtype_bytes(dtype)), "{} values for tensor '{}'",
            values.size(), name);
  widen(bytes, dtype, values);
}

void SafetensorsFile::stream_f32(std::string_view name, std::span<const int64_t> shape, std::span<float> buffer,
                                 const std::function<void(std::span<const float>)>& sink) const {
  const size_t index = require(name, shape);
  const SafeDtype dtype = tensors_[index].dtype;
  const auto value_bytes = static_cast<size_t>(safe_dtype_bytes(dtype));
  for (auto rest = data(index); !rest.empty();) {
    const auto values = buffer.first(std::min(buffer.size(), rest.size() / value_bytes));
    const auto piece = rest.first(values.size() * value_bytes);
    widen(piece, dtype, values);
    file_.release(piece);
    sink(values);
    rest = rest.subspan(piece.size());
  }
}

bool SafetensorsFile::equal(size_t index, const SafetensorsFile& other, size_t other_index) const {
  const SafeTensor &a = tensors_.at(index), &b = other.tensors_.at(other_index);
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  constexpr size_t kPieceBytes = 4 << 20;
  const auto a_bytes = data(index), b_bytes = other.data(other_index);
  for (size_t begin = 0; begin < a_bytes.size(); begin += kPieceBytes) {
    const size_t count = std::min(kPieceBytes, a_bytes.size() - begin);
    const auto a_piece = a_bytes.subspan(begin, count), b_piece = b_bytes.subspan(begin, count);
    if (!std::ranges::equal(a_piece, b_piece)) return false;
    file_.release(a_piece);
    other.file_.release(b_piece);
  }
  return true;
}

SafetensorsWriter::SafetensorsWriter(const OutputPath& path, std::vector<SafeTensor> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : name_(path.name), tensors_(std::move(tensors)), file_(path), hash_(XXH3_createState()) {
  XXH3_64bits_reset(hash_.get());
  std::set<std::string_view> names = {kMetadataKey};
  for (const SafeTensor& tensor : tensors_)
    if (!names.insert(tensor.name).second)
      throw FileError("{}: two tensors are named '{}'", name_.string(), tensor.name);
  const std::string header = header_of(tensors_, metadata);
  const uint64_t header_bytes = header.size();
  append(std::as_bytes(std::span(&header_bytes, 1)));
  append(std::as_bytes(std::span(header)));
  skip_complete();
}

void SafetensorsWriter::FreeHash::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  file_.write(bytes);
  XXH3_64bits_update(hash_.get(), bytes.data(), bytes.size());
}

uint64_t SafetensorsWriter::xxh3() const { return XXH3_64bits_digest(hash_.get()); }

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  SKP_CHECK(next_ < tensors_.size(), "{}: more than {} tensors", name_.string(), tensors_.size());
  const SafeTensor& tensor = tensors_[next_];
  SKP_CHECK(bytes.size() <= tensor.bytes() - written_bytes_, "{}: {} bytes for tensor '{}', which has {} left",
            name_.string(), bytes.size(), tensor.name, tensor.bytes() - written_bytes_);
  append(bytes);
  written_bytes_ += bytes.size();
  skip_complete();
}

void SafetensorsWriter::write(std::span<const float> values) {
  SKP_CHECK(values.empty() || next_ < tensors_.size(), "{}: more than {} tensors", name_.string(), tensors_.size());
  if (values.empty() || tensors_[next_].dtype == SafeDtype::kF32) return write(std::as_bytes(values));
  const SafeTensor& tensor = tensors_[next_];
  SKP_CHECK(is_float(tensor.dtype), "{}: values for tensor '{}'", name_.string(), tensor.name);
  const bool f16 = tensor.dtype == SafeDtype::kF16;
  narrowed_.resize(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    narrowed_[i] = f16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
    const bool infinite = (narrowed_[i] & 0x7fffu) == (f16 ? 0x7c00u : 0x7f80u);
    if (infinite && std::isfinite(values[i]))
      throw FileError("{}: tensor '{}' holds {}, which is too large for {}", name_.string(), tensor.name, values[i],
                      safe_dtype_name(tensor.dtype));
  }
  write(std::as_bytes(std::span(narrowed_)));
}

void SafetensorsWriter::skip_complete() {
  while (next_ < tensors_.size() && written_bytes_ == tensors_[next_].bytes()) {
    ++next_;
    written_bytes_ = 0;
  }
}

void SafetensorsWriter::finish() {
  SKP_CHECK(next_ == tensors_.size(), "{}: {} of {} tensors were written", name_.string(), next_, tensors_.size());
  file_.publish();
}

}  // namespace skippipe
