// The header codec against random headers and mutations of them.
#include "comm/formats/message.h"

#include <gmock/gmock.h>
#include <xxhash.h>

#include <cstring>

#include "base/error.h"
#include "tests/comm/support.h"

namespace skippipe {
namespace {

using Bytes = std::array<std::byte, kMessageHeaderBytes>;

MessageHeader random_header(Random& random) {
  MessageHeader header;
  header.run_id = random();
  header.kind = static_cast<MessageKind>(1 + random.below(9));
  header.iteration = static_cast<uint32_t>(random());
  header.microbatch = static_cast<uint32_t>(random());
  header.source = static_cast<uint16_t>(random());
  header.destination = static_cast<uint16_t>(random());
  header.sequence = random();
  header.payload_checksum = random();
  std::vector<int64_t> shape(random.below(5));
  for (int64_t& dimension : shape) dimension = static_cast<int64_t>(random.below(1 << random.below(15)));
  set_payload(header, static_cast<WireDtype>(1 + random.below(5)), shape);
  return header;
}

void renew_checksum(Bytes& bytes) {
  const uint64_t checksum = XXH3_64bits(bytes.data(), kMessageHeaderBytes - 8);
  std::memcpy(bytes.data() + kMessageHeaderBytes - 8, &checksum, 8);
}

TEST(MessageHeader, RoundTrips) {
  Random random(1);
  for (int i = 0; i < 1000; ++i) {
    const MessageHeader header = random_header(random);
    Bytes bytes;
    encode_header(header, bytes);
    MessageHeader read;
    const Status status = decode_header(bytes, read);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_EQ(read, header);
  }
}

// The bytes of PROTOCOL.md, so that a change of the layout is not taken for compatible.
TEST(MessageHeader, HasTheSpecifiedBytes) {
  MessageHeader header;
  header.run_id = 0x1122334455667788;
  header.kind = MessageKind::kBackward;
  header.iteration = 3;
  header.microbatch = 5;
  header.source = 2;
  header.destination = 4;
  set_payload(header, WireDtype::kBf16, std::array<int64_t, 2>{6, 7});
  Bytes bytes;
  encode_header(header, bytes);
  const auto at = [&](size_t offset) { return std::to_integer<int>(bytes[offset]); };
  EXPECT_EQ(std::memcmp(bytes.data(), "SKPM\x01\x00\x60\x00", 8), 0);
  EXPECT_EQ(at(8), 0x88);
  EXPECT_EQ(at(24), 6 * 7 * 2);
  EXPECT_EQ(at(40), 3);
  EXPECT_EQ(at(44), 5);
  EXPECT_EQ(at(48), 2);
  EXPECT_EQ(at(50), 4);
  EXPECT_EQ(at(52), 2);
  EXPECT_EQ(at(53), 2);
  EXPECT_EQ(at(54), 2);
  EXPECT_EQ(at(56), 6);
  EXPECT_EQ(at(60), 7);
  EXPECT_EQ(header.to_string(), "backward of iteration 3, microbatch 5, from node 2 to node 4");
}

TEST(MessageHeader, MutationsAreRefused) {
  Random random(2);
  for (int i = 0; i < 10000; ++i) {
    Bytes bytes;
    encode_header(random_header(random), bytes);
    const Bytes original = bytes;
    for (uint64_t flips = 1 + random.below(4); flips > 0; --flips) {
      bytes[random.below(bytes.size())] ^= static_cast<std::byte>(1 << random.below(8));
    }
    MessageHeader read;
    ASSERT_EQ(decode_header(bytes, read).ok(), bytes == original) << "seed 2, mutation " << i;
  }
}

// Whoever can compute the checksum still can't pass anything but what a header of this version can say.
TEST(MessageHeader, MutationsWithRightChecksumDecodeToThemselvesOrAreRefused) {
  Random random(3);
  int accepted = 0;
  for (int i = 0; i < 10000; ++i) {
    Bytes bytes;
    encode_header(random_header(random), bytes);
    for (uint64_t changes = 1 + random.below(3); changes > 0; --changes) {
      bytes[random.below(bytes.size())] = static_cast<std::byte>(random());
    }
    renew_checksum(bytes);
    MessageHeader read;
    if (!decode_header(bytes, read).ok()) continue;
    ++accepted;
    Bytes again;
    encode_header(read, again);
    ASSERT_EQ(bytes, again) << "seed 3, mutation " << i;
  }
  EXPECT_GT(accepted, 0);
}

TEST(MessageHeader, LyingFieldsAreNamed) {
  struct Case {
    size_t offset;
    uint8_t value;
    const char* message;
  };
  for (const Case& lie :
       {Case{0, 'x', "magic"}, Case{4, 2, "version 2, expected 1"}, Case{52, 10, "kind 10"}, Case{52, 0, "kind 0"},
        Case{53, 9, "dtype 9"}, Case{54, 5, "rank 5"}, Case{54, 1, "dimension"}, Case{24, 9, "9 payload bytes"},
        Case{55, 1, "reserved"}, Case{75, 1, "reserved"}}) {
    MessageHeader header;
    set_payload(header, WireDtype::kF32, std::array<int64_t, 2>{1, 2});
    Bytes bytes;
    encode_header(header, bytes);
    bytes[lie.offset] = std::byte{lie.value};
    renew_checksum(bytes);
    MessageHeader read;
    const Status status = decode_header(bytes, read);
    EXPECT_EQ(status.code(), StatusCode::kCorrupt);
    EXPECT_THAT(status.message(), testing::HasSubstr(lie.message));
  }
}

TEST(MessageHeader, OverflowingShapesAreRefused) {
  MessageHeader header;
  EXPECT_THROW(set_payload(header, WireDtype::kF32, std::vector<int64_t>(4, 0xffffffff)), ShapeError);
  EXPECT_THROW(set_payload(header, WireDtype::kF32, std::vector<int64_t>{-1}), ShapeError);
  EXPECT_THROW(set_payload(header, WireDtype::kF32, std::vector<int64_t>{1ll << 32}), ShapeError);
  EXPECT_THROW(set_payload(header, WireDtype::kF32, std::vector<int64_t>(5, 1)), ShapeError);
  // 2^31 * 2^31 * 4 * 4 bytes wrap around to 0.
  set_payload(header, WireDtype::kF32, std::array<int64_t, 3>{0, 0, 0});
  header.shape = {1u << 31, 1u << 31, 4, 0};
  Bytes bytes;
  encode_header(header, bytes);
  MessageHeader read;
  EXPECT_EQ(decode_header(bytes, read).code(), StatusCode::kCorrupt);
}

TEST(MessageHeader, OtherLengthsAreRefused) {
  Bytes bytes;
  encode_header({}, bytes);
  MessageHeader read;
  EXPECT_TRUE(decode_header(bytes, read).ok());
  EXPECT_FALSE(decode_header(std::span(bytes).first(95), read).ok());
  EXPECT_FALSE(decode_header({}, read).ok());
}

}  // namespace
}  // namespace skippipe
