#include "kernels/tensor.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"

namespace skippipe {
namespace {

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

TEST(TensorTest, DimsPrintAndCompare) {
  EXPECT_EQ(Dims({}).to_string(), "()");
  EXPECT_EQ(Dims({4, 128}).to_string(), "(4, 128)");
  EXPECT_EQ(contiguous_strides({2, 3, 4}), Dims({12, 4, 1}));
  EXPECT_NE(Dims({2}), Dims({2, 0}));
  EXPECT_THROW(Dims({1, 2, 3, 4, 5}), InternalError);
}

TEST(TensorTest, ElementCountRejectsWhatIsNoShape) {
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({3, 0}), 0);
  EXPECT_EQ(element_count({3, 5, 7}), 105);
  EXPECT_THROW(element_count({3, -1}), ShapeError);
  EXPECT_THROW(element_count({kHuge, 2}), ShapeError);
  EXPECT_THROW(contiguous_strides({kHuge, kHuge}), ShapeError);
}

TEST(TensorTest, SlicesKeepStrides) {
  float data[24];
  const Tensor t(data, {4, 6}, Dtype::kF32);
  const Tensor columns = t.slice(1, 2, 3);
  EXPECT_EQ(columns.shape(), Dims({4, 3}));
  EXPECT_EQ(columns.strides(), Dims({6, 1}));
  EXPECT_EQ(columns.as<float>(), data + 2);
  EXPECT_FALSE(columns.is_contiguous());
  EXPECT_EQ(t.slice(0, 4, 0).elements(), 0);
  EXPECT_THROW(t.slice(1, 4, 3), ShapeError);
  EXPECT_THROW(t.slice(1, -1, 3), ShapeError);
  EXPECT_THROW(t.slice(2, 0, 1), ShapeError);
  EXPECT_THROW(t.slice(1, kHuge, kHuge), ShapeError);
}

TEST(TensorTest, ReshapeNeedsContiguousAndEqualCounts) {
  uint16_t data[12];
  const Tensor t(data, {3, 4}, Dtype::kBf16);
  EXPECT_EQ(t.bytes(), 24);
  EXPECT_EQ(t.reshape({2, 6}).shape(), Dims({2, 6}));
  EXPECT_THROW(t.reshape({5, 2}), ShapeError);
  EXPECT_THROW(t.slice(1, 0, 2).reshape({6}), ShapeError);
}

}  // namespace
}  // namespace skippipe
