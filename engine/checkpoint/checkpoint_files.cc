#include "engine/checkpoint/checkpoint_files.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json_reader.h"
#include "engine/files/sampler.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

constexpr char kManifestFile[] = "manifest.json";
constexpr char kConfigFile[] = "config.json";
constexpr char kFormat[] = "skippipe-checkpoint";
constexpr char kPartFormat[] = "skippipe-checkpoint-part";
constexpr int64_t kVersion = 1;
constexpr uint64_t kMaxManifestBytes = 4 << 20;
constexpr int64_t kMaxStages = 10'000;

std::string part_file(int stage) { return fmt::format("stage-{:02d}.json", stage); }

CheckpointFile describe(const std::string& name, std::string_view content) {
  return {name, content.size(), XXH3_64bits(content.data(), content.size())};
}

nlohmann::ordered_json json_of(const std::vector<CheckpointFile>& files) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const CheckpointFile& file : files)
    list.push_back({{"name", file.name}, {"bytes", file.bytes}, {"xxh3", fmt::format("{:016x}", file.xxh3)}});
  return list;
}

uint64_t read_hash(const JsonReader& field) {
  const std::string text = field.as_string();
  uint64_t hash = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), hash, 16);
  if (text.size() != 16 || error != std::errc() || end != text.data() + text.size())
    field.fail("16 hexadecimal digits");
  return hash;
}

std::vector<CheckpointFile> read_files(const JsonReader& field) {
  std::vector<CheckpointFile> files;
  for (const JsonReader& item : field.items()) {
    const JsonReader name = item.at("name");
    // Only files of the checkpoint itself.
    const bool in_folder = fs::path(name.as_string()).filename() == name.as_string();
    if ((!in_folder || name.as_string().starts_with('.')) && !is_companion(name.as_string()))
      name.fail("the name of a file in the checkpoint");
    files.push_back({name.as_string(), static_cast<uint64_t>(item.at("bytes").as_int(0)), read_hash(item.at("xxh3"))});
  }
  return files;
}

void expect_format(const JsonReader& root, const char* format) {
  const JsonReader field = root.at("format");
  if (field.as_string() != format) field.fail(format);
  root.at("version").as_int(kVersion, kVersion);
}

std::vector<int> read_counts(const JsonReader& field, int low, size_t max_items) {
  std::vector<int> counts;
  for (const JsonReader& item : field.items())
    counts.push_back(static_cast<int>(item.as_int(low, std::numeric_limits<int32_t>::max())));
  if (counts.size() > max_items) field.fail(fmt::format("at most {} numbers", max_items));
  return counts;
}

CheckpointManifest read_manifest(const JsonReader& root) {
  expect_format(root, kFormat);
  CheckpointManifest manifest;
  manifest.iteration = static_cast<uint32_t>(root.at("iteration").as_int(0, std::numeric_limits<int32_t>::max()));
  manifest.layers_per_stage = read_counts(root.at("layers_per_stage"), 0, kMaxStages);
  if (manifest.layers_per_stage.empty()) root.at("layers_per_stage").fail("at least one stage");
  manifest.optimizer = root.at("optimizer").as_bool();
  if (const auto run = root.find("run")) {
    for (const std::string& field : run->keys()) manifest.run.emplace(field, run->at(field).as_string());
    manifest.replicas = read_counts(root.at("replicas"), 1, kMaxStages);
    manifest.microbatches = root.at("microbatches").as_int(1);
    if (const auto samples = root.find("samples"))
      manifest.samples = static_cast<uint64_t>(samples->as_int(0, static_cast<int64_t>(kMaxSamples)));
  }
  if (const auto contents = root.find("contents"))
    for (const std::string& field : contents->keys()) manifest.contents.emplace(field, contents->at(field).as_string());
  manifest.files = read_files(root.at("files"));
  return manifest;
}

std::vector<CheckpointFile> read_part(const JsonReader& root, std::optional<int> stage) {
  expect_format(root, kPartFormat);
  root.at("stage").as_int(stage.value_or(0), stage.value_or(kMaxStages));
  return read_files(root.at("files"));
}

// Through a buffer: the file may be larger than memory.
uint64_t hash_file(const fs::path& path, const std::function<void()>& poll) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw FileError("{}: cannot open: {}", path.string(), std::strerror(errno));
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
  XXH3_64bits_reset(state.get());
  std::vector<char> buffer(1 << 20);
  while (file) {
    if (poll) poll();
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    XXH3_64bits_update(state.get(), buffer.data(), static_cast<size_t>(file.gcount()));
  }
  if (file.bad()) throw FileError("{}: cannot read", path.string());
  return XXH3_64bits_digest(state.get());
}

void require_file(const std::vector<CheckpointFile>& files, const std::string& name, const fs::path& description,
                  std::vector<std::string>& problems) {
  if (std::ranges::find(files, name, &CheckpointFile::name) == files.end())
    problems.push_back(fmt::format("{}: does not list {}", description.string(), name));
}

// The iterations whose name is in the folder.
std::vector<uint32_t> list_iterations(const fs::path& folder, const std::function<fs::path(uint32_t)>& name_of) {
  std::vector<uint32_t> iterations;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const size_t digits = name.find_first_of("0123456789");
    if (digits == std::string::npos) continue;
    uint32_t iteration = 0;
    if (std::from_chars(name.data() + digits, name.data() + name.size(), iteration).ec != std::errc()) continue;
    if (name_of(iteration) == name) iterations.push_back(iteration);
  }
  std::ranges::sort(iterations);
  return iterations;
}

fs::path removed_checkpoint(const fs::path& checkpoint) {
  return checkpoint.parent_path() / fmt::format(".{}.removed", checkpoint.filename().string());
}

void remove_quietly(const fs::path& folder) {
  std::error_code ignored;
  fs::remove_all(folder, ignored);
}

// What `names` does not name, in a folder below `root` and in those that hold what it names.
std::vector<fs::path> strays_in(const fs::path& root, const fs::path& below, const std::set<std::string>& names) {
  std::vector<fs::path> strays;
  std::error_code error;
  for (fs::directory_iterator entry(root / below, error), end; !error && entry != end; entry.increment(error)) {
    const fs::path path = below / entry->path().filename();
    const std::string name = path.string();
    if (names.contains(name)) continue;
    if (std::ranges::none_of(names, [&](const std::string& known) { return known.starts_with(name + "/"); })) {
      strays.push_back(root / path);
      continue;
    }
    const std::vector<fs::path> inside = strays_in(root, path, names);
    strays.insert(strays.end(), inside.begin(), inside.end());
  }
  return strays;
}

void remove_strays(const fs::path& folder) {
  const CheckpointManifest manifest = load_checkpoint_manifest(folder);
  std::set<std::string> names = {kManifestFile};
  for (const CheckpointFile& file : manifest.files) names.insert(file.name);
  for (int stage = 0; stage < manifest.stages(); ++stage)
    names.insert({part_file(stage), stage_weights_file(stage), stage_optimizer_file(stage)});
  for (const fs::path& stray : strays_in(folder, {}, names)) remove_quietly(stray);
}

std::string size_problem(const fs::path& folder, const CheckpointFile& file) {
  const fs::path path = folder / file.name;
  std::error_code error;
  const uint64_t bytes = fs::file_size(path, error);
  if (error) return fmt::format("{}: {}", path.string(), error.message());
  if (bytes != file.bytes) return fmt::format("{}: {} bytes, expected {}", path.string(), bytes, file.bytes);
  return {};
}

// Of a checkpoint, given what is wrong with each of its files.
std::vector<std::string> problems_of_files(const fs::path& folder,
                                           const std::function<std::string(const CheckpointFile&)>& problem_of) {
  std::vector<std::string> problems;
  const auto check_files = [&](const std::vector<CheckpointFile>& files) {
    for (const CheckpointFile& file : files)
      if (std::string problem = problem_of(file); !problem.empty()) problems.push_back(std::move(problem));
  };
  try {
    const CheckpointManifest manifest = load_checkpoint_manifest(folder);
    require_file(manifest.files, kConfigFile, folder / kManifestFile, problems);
    check_files(manifest.files);
    for (int stage = 0; stage < manifest.stages(); ++stage) {
      try {
        const std::vector<CheckpointFile> files = load_checkpoint_part(folder, stage);
        require_file(files, stage_weights_file(stage), folder / part_file(stage), problems);
        if (manifest.optimizer) require_file(files, stage_optimizer_file(stage), folder / part_file(stage), problems);
        check_files(files);
      } catch (const FileError& error) {
        problems.emplace_back(error.what());
      }
    }
  } catch (const FileError& error) {
    problems.emplace_back(error.what());
  }
  return problems;
}

}  // namespace

fs::path checkpoints_folder(const fs::path& run_output) { return run_output / "checkpoints"; }
std::string checkpoint_name(uint32_t iteration) { return fmt::format("iteration-{:08d}", iteration); }

fs::path partial_checkpoint(const fs::path& checkpoint) {
  return checkpoint.parent_path() / fmt::format(".{}.partial", checkpoint.filename().string());
}

std::string stage_weights_file(int stage) { return fmt::format("stage-{:02d}.safetensors", stage); }
std::string stage_optimizer_file(int stage) { return fmt::format("optimizer-{:02d}.safetensors", stage); }
std::string first_moment_name(const std::string& weight) { return weight + ".first_moment"; }
std::string second_moment_name(const std::string& weight) { return weight + ".second_moment"; }

std::vector<SafeTensor> moment_tensors(std::span<const SafeTensor> weights) {
  std::vector<SafeTensor> moments;
  for (const SafeTensor& weight : weights) {
    moments.push_back({first_moment_name(weight.name), SafeDtype::kF32, weight.shape});
    moments.push_back({second_moment_name(weight.name), SafeDtype::kF32, weight.shape});
  }
  return moments;
}

void write_checkpoint_description(const OutputPath& folder, CheckpointManifest manifest, const ModelConfig& config,
                                  const CompanionFiles& companions) {
  make_folder(folder);
  manifest.files.clear();
  CompanionFiles files = companions;
  files[kConfigFile].content = model_config_json(config);
  write_companions(folder, files);
  for (const auto& [name, file] : files) manifest.files.push_back(describe(name, file.content));

  nlohmann::ordered_json document = {{"format", kFormat},
                                     {"version", kVersion},
                                     {"iteration", manifest.iteration},
                                     {"layers_per_stage", manifest.layers_per_stage},
                                     {"optimizer", manifest.optimizer}};
  if (!manifest.run.empty()) {
    document["replicas"] = manifest.replicas;
    document["microbatches"] = manifest.microbatches;
    if (manifest.samples) document["samples"] = *manifest.samples;
    document["run"] = manifest.run;
    document["contents"] = manifest.contents;
  }
  document["files"] = json_of(manifest.files);
  write_file_atomically(folder / kManifestFile, document.dump(2) + "\n");
}

CheckpointPartWriter::CheckpointPartWriter(const OutputPath& folder, int stage, std::vector<SafeTensor> weights,
                                           bool optimizer)
    : folder_(folder), stage_(stage) {
  for (SafeTensor& weight : weights) weight.dtype = SafeDtype::kF32;
  if (optimizer)
    moments_ = std::make_unique<SafetensorsWriter>(folder / stage_optimizer_file(stage), moment_tensors(weights));
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};  // transformers asks for it
  weights_ = std::make_unique<SafetensorsWriter>(folder / stage_weights_file(stage), std::move(weights), metadata);
}

void CheckpointPartWriter::write_weights(std::span<const float> values) { weights_->write(values); }

void CheckpointPartWriter::write_moments(std::span<const float> values) { moments_->write(values); }

void CheckpointPartWriter::finish() {
  std::vector<CheckpointFile> files;
  const auto finish_file = [&](SafetensorsWriter& writer, const std::string& name) {
    writer.finish();
    files.push_back({name, writer.bytes(), writer.xxh3()});
  };
  finish_file(*weights_, stage_weights_file(stage_));
  if (moments_) finish_file(*moments_, stage_optimizer_file(stage_));
  const nlohmann::ordered_json document = {
      {"format", kPartFormat}, {"version", kVersion}, {"stage", stage_}, {"files", json_of(files)}};
  write_file_atomically(folder_ / part_file(stage_), document.dump(2) + "\n");
}

void publish_checkpoint(const fs::path& partial, const fs::path& checkpoint) {
  const auto published = [&] { return !fs::exists(partial); };  // and perhaps removed since
  const auto rename = [&] { return std::rename(partial.c_str(), checkpoint.c_str()) == 0 ? 0 : errno; };
  if (published()) return;
  try {
    remove_strays(partial);
    sync_folder({partial, checkpoint});
  } catch (const FileError&) {
    if (published()) return;  // meanwhile
    throw;
  }
  int error = rename();
  if (error == ENOTEMPTY || error == EEXIST) {
    remove_checkpoint(checkpoint);
    error = rename();
  }
  if (error != 0 && !published())
    throw FileError("{}: cannot be given its name: {}", checkpoint.string(), std::strerror(error));
  sync_folder(checkpoint.parent_path());
}

void remove_checkpoint(const fs::path& checkpoint) {
  const fs::path removed = removed_checkpoint(checkpoint);
  remove_quietly(removed);
  std::error_code error;
  fs::rename(checkpoint, removed, error);
  remove_quietly(error ? checkpoint : removed);
}

void finish_removals(const fs::path& folder) {
  for (const uint32_t iteration :
       list_iterations(folder, [](uint32_t iteration) { return removed_checkpoint(checkpoint_name(iteration)); }))
    remove_quietly(removed_checkpoint(folder / checkpoint_name(iteration)));
}

bool is_checkpoint(const fs::path& folder) {
  std::error_code ignored;
  return fs::is_regular_file(folder / kManifestFile, ignored);
}

CheckpointManifest load_checkpoint_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestFile;
  const nlohmann::json document = load_json(path, kMaxManifestBytes);
  return read_manifest(JsonReader(document, path.string()));
}

std::vector<CheckpointFile> load_checkpoint_part(const fs::path& folder, int stage) {
  const fs::path path = folder / part_file(stage);
  const nlohmann::json document = load_json(path, kMaxManifestBytes);
  return read_part(JsonReader(document, path.string()), stage);
}

void check_checkpoint_json(const fs::path& path) {
  const nlohmann::json document = load_json(path, kMaxManifestBytes);
  const JsonReader root(document, path.string());
  if (root.at("format").as_string() == kPartFormat)
    read_part(root, {});
  else
    read_manifest(root);
}

std::string file_problem(const fs::path& folder, const CheckpointFile& file, const std::function<void()>& poll) {
  if (std::string problem = size_problem(folder, file); !problem.empty()) return problem;
  const fs::path path = folder / file.name;
  if (hash_file(path, poll) == file.xxh3) return {};
  return fmt::format("{}: the content has another checksum than its description says", path.string());
}

std::vector<std::string> checkpoint_problems(const fs::path& folder, const std::function<void()>& poll) {
  return problems_of_files(folder, [&](const CheckpointFile& file) { return file_problem(folder, file, poll); });
}

std::vector<std::string> missing_parts(const fs::path& folder) {
  return problems_of_files(folder, [&](const CheckpointFile& file) { return size_problem(folder, file); });
}

std::vector<uint32_t> list_checkpoints(const fs::path& folder) {
  return list_iterations(folder, [](uint32_t iteration) { return fs::path(checkpoint_name(iteration)); });
}

std::vector<uint32_t> list_partial_checkpoints(const fs::path& folder) {
  return list_iterations(folder, [](uint32_t iteration) { return partial_checkpoint(checkpoint_name(iteration)); });
}

std::optional<fs::path> newest_whole_checkpoint(
    const fs::path& run_output,
    const std::function<void(const fs::path& checkpoint, const std::string& problem)>& on_broken) {
  const fs::path folder = checkpoints_folder(run_output);
  std::vector<uint32_t> iterations = list_checkpoints(folder);
  for (auto iteration = iterations.rbegin(); iteration != iterations.rend(); ++iteration) {
    const fs::path checkpoint = folder / checkpoint_name(*iteration);
    const std::vector<std::string> problems = checkpoint_problems(checkpoint);
    if (problems.empty()) return checkpoint;
    if (on_broken) on_broken(checkpoint, problems.front());
  }
  return std::nullopt;
}

}  // namespace skippipe
