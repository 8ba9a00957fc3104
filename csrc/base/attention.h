// Scaled dot-product attention of several heads:
//
//     score[b, h, t, s] = scale * (query[b, t, h] . key[b, s, h / g]), or kMaskedScore where mask[b, h, t, s] is false
//     y[b, t, h]        = sum over s of softmax over s of score[b, h, t] * value[b, s, h / g]
//
// with g = heads / kv_heads: neighbouring heads may share keys and values. Sums are float32 whatever the tensors are. The scores of a block of
// queries are made, normalised and multiplied by in the caches; TensorFlow writes [b, h, t, s] of them to memory three times, and transposes
// queries, keys, values and outputs besides. Format-independent: no operand is a weight.
//
// Reference: Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", NeurIPS 2022, section 3.1: blocks of keys
// with a running maximum and sum.
#ifndef TFCOMPRESS_BASE_ATTENTION_H_
#define TFCOMPRESS_BASE_ATTENTION_H_

#include <cstdint>

#include "base/cpu.h"
#include "base/parallel.h"
#include "base/types.h"

namespace tfcompress {

// What Keras puts in the place of masked scores: a query that may look at no key takes the mean of all values, unless it is to take zeros.
inline constexpr float kMaskedScore = -0.7f * 3.38953e38f;

struct AttentionArgs {
  int64_t batch = 0, queries = 0, keys = 0;  // without keys y is 0
  int64_t heads = 0, kv_heads = 0;           // heads is a multiple of kv_heads
  int64_t key_dim = 0, value_dim = 0;
  ElementType type = ElementType::kFloat32;  // of query, key, value and y
  const void* query = nullptr;               // [batch, queries, heads, key_dim]
  const void* key = nullptr;                 // [batch, keys, kv_heads, key_dim]
  const void* value = nullptr;               // [batch, keys, kv_heads, value_dim]
  // One byte a score, 0 where it is masked: mask[b * mask_strides[0] + h * mask_strides[1] + t * mask_strides[2] + s * mask_strides[3]]. Null: all
  // are looked at.
  const bool* mask = nullptr;
  int64_t mask_strides[4] = {};
  bool zero_blind = false;  // whether a query that may look at no key takes zeros, not the mean of all values
  float scale = 1;
  void* y = nullptr;  // [batch, queries, heads, value_dim]
};

// Memory that Attention() works in, 64-byte aligned.
int64_t AttentionScratchBytes(const AttentionArgs& args, const ThreadPool& pool);
void Attention(const AttentionArgs& args, ThreadPool* pool, void* scratch);

// One tier's.
struct AttentionKernel {
  // Bytes that one worker needs, a multiple of 64. They begin with an int64_t that is to be -1 before the worker's first task.
  int64_t (*scratch_bytes)(const AttentionArgs& args);
  // Queries begin ... end - 1 of a head; at most kAttentionQueries. What the worker prepared of the same keys and values before is used again.
  void (*run)(const AttentionArgs& args, int64_t batch, int64_t head, int64_t begin, int64_t end, void* scratch);
};
inline constexpr int64_t kAttentionQueries = 96;

extern const AttentionKernel kAttentionPortable;
#ifdef TFCOMPRESS_HAVE_X86_TIERS
extern const AttentionKernel kAttentionAvx2;
extern const AttentionKernel kAttentionAvx512;
#endif

// A tier's, or that of the best one below it that was built for this machine.
const AttentionKernel& AttentionKernelFor(Tier tier);

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_ATTENTION_H_
