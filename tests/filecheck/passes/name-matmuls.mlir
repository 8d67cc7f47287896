// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls)' | filecheck %s

// A linear layer: the weight is transposed, the name comes from the location.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x4xf32>
// CHECK-LABEL: func.func @linear
func.func @linear(%x: tensor<2x4xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %w = util.global.load @fc.weight : tensor<8x4xf32>
  %e = tensor.empty() : tensor<4x8xf32>
  %t = linalg.transpose ins(%w : tensor<8x4xf32>) outs(%e : tensor<4x8xf32>) permutation = [1, 0]
  // CHECK: linalg.matmul {lowc.kind = "weight", lowc.matmul = "encoder.fc", lowc.shape = "2x8x4"}
  %y = linalg.matmul ins(%x, %t : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32> loc("encoder.fc")
  return %y : tensor<2x8xf32>
}

// -----
// Without a location the parameter gives the name; a second use of it is numbered.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<4x4xf32>
// CHECK-LABEL: func.func @tied
func.func @tied(%x: tensor<2x4xf32>, %init: tensor<2x4xf32>) -> tensor<2x4xf32> {
  %w = util.global.load @fc.weight : tensor<4x4xf32>
  // CHECK: linalg.matmul {{.*}}lowc.matmul = "fc",
  %y = linalg.matmul ins(%x, %w : tensor<2x4xf32>, tensor<4x4xf32>)
      outs(%init : tensor<2x4xf32>) -> tensor<2x4xf32>
  // CHECK: linalg.matmul {{.*}}lowc.matmul = "fc#1",
  %z = linalg.matmul ins(%y, %w : tensor<2x4xf32>, tensor<4x4xf32>)
      outs(%init : tensor<2x4xf32>) -> tensor<2x4xf32>
  return %z : tensor<2x4xf32>
}

// -----
// Names end in that of the entry, and are counted in each.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<4x4xf32>
// CHECK-LABEL: func.func @prefill
func.func @prefill(%x: tensor<2x4xf32>, %i: tensor<2x4xf32>) -> tensor<2x4xf32>
    attributes {lowc.entry} {
  %w = util.global.load @fc.weight : tensor<4x4xf32>
  // CHECK: linalg.matmul {{.*}}lowc.matmul = "fc@prefill",
  %y = linalg.matmul ins(%x, %w : tensor<2x4xf32>, tensor<4x4xf32>)
      outs(%i : tensor<2x4xf32>) -> tensor<2x4xf32>
  // CHECK: linalg.matmul {{.*}}lowc.matmul = "fc#1@prefill",
  %z = linalg.matmul ins(%y, %w : tensor<2x4xf32>, tensor<4x4xf32>)
      outs(%i : tensor<2x4xf32>) -> tensor<2x4xf32>
  return %z : tensor<2x4xf32>
}
// CHECK-LABEL: func.func @decode
func.func @decode(%x: tensor<1x4xf32>, %i: tensor<1x4xf32>) -> tensor<1x4xf32>
    attributes {lowc.entry} {
  %w = util.global.load @fc.weight : tensor<4x4xf32>
  // CHECK: linalg.matmul {{.*}}lowc.matmul = "fc@decode",
  %y = linalg.matmul ins(%x, %w : tensor<1x4xf32>, tensor<4x4xf32>)
      outs(%i : tensor<1x4xf32>) -> tensor<1x4xf32>
  return %y : tensor<1x4xf32>
}

// -----
// A transposition that is a generic, in front of the weight as left operand.

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<4x8xf32>
// CHECK-LABEL: func.func @weight_as_lhs
func.func @weight_as_lhs(%x: tensor<4x2xf32>, %init: tensor<8x2xf32>) -> tensor<8x2xf32> {
  %w = util.global.load @w : tensor<4x8xf32>
  %e = tensor.empty() : tensor<8x4xf32>
  %t = linalg.generic {
      indexing_maps = [affine_map<(i, j) -> (j, i)>, affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%w : tensor<4x8xf32>) outs(%e : tensor<8x4xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  } -> tensor<8x4xf32>
  // CHECK: linalg.matmul {lowc.kind = "weight", lowc.matmul = "w", lowc.shape = "8x2x4"}
  %y = linalg.matmul ins(%t, %x : tensor<8x4xf32>, tensor<4x2xf32>)
      outs(%init : tensor<8x2xf32>) -> tensor<8x2xf32>
  return %y : tensor<8x2xf32>
}

// -----
// A weight that is repeated along the batch, as PyTorch does for a linear layer on three dimensions.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<4x8xf32>
// CHECK-LABEL: func.func @broadcast_weight
func.func @broadcast_weight(%x: tensor<3x2x4xf32>, %init: tensor<3x2x8xf32>) -> tensor<3x2x8xf32> {
  %w = util.global.load @fc.weight : tensor<4x8xf32>
  %e = tensor.empty() : tensor<3x4x8xf32>
  %b = linalg.generic {
      indexing_maps = [affine_map<(b, k, n) -> (k, n)>, affine_map<(b, k, n) -> (b, k, n)>],
      iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%w : tensor<4x8xf32>) outs(%e : tensor<3x4x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  } -> tensor<3x4x8xf32>
  // CHECK: linalg.batch_matmul {lowc.kind = "weight", lowc.matmul = "fc", lowc.shape = "3x2x8x4"}
  %y = linalg.batch_matmul ins(%x, %b : tensor<3x2x4xf32>, tensor<3x4x8xf32>)
      outs(%init : tensor<3x2x8xf32>) -> tensor<3x2x8xf32>
  return %y : tensor<3x2x8xf32>
}

// -----
// The same with linalg.broadcast, and with a batch that is not known.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<4x8xf32>
// CHECK-LABEL: func.func @broadcast_weight_dynamic
func.func @broadcast_weight_dynamic(%x: tensor<?x2x4xf32>, %e: tensor<?x4x8xf32>,
                                    %init: tensor<?x2x8xf32>) -> tensor<?x2x8xf32> {
  %w = util.global.load @fc.weight : tensor<4x8xf32>
  %b = linalg.broadcast ins(%w : tensor<4x8xf32>) outs(%e : tensor<?x4x8xf32>) dimensions = [0]
  // CHECK: linalg.batch_matmul {lowc.kind = "weight", lowc.matmul = "fc", lowc.shape = "?x2x8x4"}
  %y = linalg.batch_matmul ins(%x, %b : tensor<?x2x4xf32>, tensor<?x4x8xf32>)
      outs(%init : tensor<?x2x8xf32>) -> tensor<?x2x8xf32>
  return %y : tensor<?x2x8xf32>
}

// -----
// One weight per batch entry (experts), without a broadcast.

util.global private @experts = #flow.parameter.named<"model"::"experts"> : tensor<3x4x8xf32>
// CHECK-LABEL: func.func @batched_weight
func.func @batched_weight(%x: tensor<3x2x4xf32>, %init: tensor<3x2x8xf32>) -> tensor<3x2x8xf32> {
  %w = util.global.load @experts : tensor<3x4x8xf32>
  // CHECK: linalg.batch_matmul {lowc.kind = "weight", lowc.matmul = "experts", lowc.shape = "3x2x8x4"}
  %y = linalg.batch_matmul ins(%x, %w : tensor<3x2x4xf32>, tensor<3x4x8xf32>)
      outs(%init : tensor<3x2x8xf32>) -> tensor<3x2x8xf32>
  return %y : tensor<3x2x8xf32>
}

// -----
// Products with a vector, and of two vectors.

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<8x4xf32>
util.global private @v = #flow.parameter.named<"model"::"v"> : tensor<4xf32>
// CHECK-LABEL: func.func @vectors
func.func @vectors(%x: tensor<4xf32>, %y: tensor<8xf32>, %i8: tensor<8xf32>, %i4: tensor<4xf32>,
                   %i: tensor<f32>) -> (tensor<8xf32>, tensor<4xf32>, tensor<f32>) {
  %w = util.global.load @w : tensor<8x4xf32>
  %v = util.global.load @v : tensor<4xf32>
  // CHECK: linalg.matvec {lowc.kind = "weight", lowc.matmul = "matvec", lowc.shape = "8x4"}
  %0 = linalg.matvec ins(%w, %x : tensor<8x4xf32>, tensor<4xf32>)
      outs(%i8 : tensor<8xf32>) -> tensor<8xf32> loc("matvec")
  // CHECK: linalg.vecmat {lowc.kind = "weight", lowc.matmul = "vecmat", lowc.shape = "4x8"}
  %1 = linalg.vecmat ins(%y, %w : tensor<8xf32>, tensor<8x4xf32>)
      outs(%i4 : tensor<4xf32>) -> tensor<4xf32> loc("vecmat")
  // CHECK: linalg.dot {lowc.kind = "weight", lowc.matmul = "dot", lowc.shape = "4"}
  %2 = linalg.dot ins(%x, %v : tensor<4xf32>, tensor<4xf32>)
      outs(%i : tensor<f32>) -> tensor<f32> loc("dot")
  return %0, %1, %2 : tensor<8xf32>, tensor<4xf32>, tensor<f32>
}

// -----
// An einsum in a generic, with two free dimensions of the weight; and a sum over the batch too.

util.global private @heads = #flow.parameter.named<"model"::"heads"> : tensor<6x5x4xf32>
// CHECK-LABEL: func.func @generics
func.func @generics(%x: tensor<2x4xf32>, %init: tensor<2x6x5xf32>, %a: tensor<3x2x4xf32>,
                    %b: tensor<3x4x8xf32>, %init2: tensor<2x8xf32>)
                    -> (tensor<2x6x5xf32>, tensor<2x8xf32>) {
  %w = util.global.load @heads : tensor<6x5x4xf32>
  // CHECK: linalg.generic
  // CHECK-SAME: lowc.kind = "weight", lowc.matmul = "heads", lowc.shape = "2x6x5x4"
  %y = linalg.generic {
      indexing_maps = [affine_map<(m, h, n, k) -> (m, k)>, affine_map<(m, h, n, k) -> (h, n, k)>,
                       affine_map<(m, h, n, k) -> (m, h, n)>],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]}
      ins(%x, %w : tensor<2x4xf32>, tensor<6x5x4xf32>) outs(%init : tensor<2x6x5xf32>) {
  ^bb0(%l: f32, %r: f32, %acc: f32):
    %p = arith.mulf %l, %r : f32
    %s = arith.addf %acc, %p : f32
    linalg.yield %s : f32
  } -> tensor<2x6x5xf32>
  // CHECK: linalg.batch_reduce_matmul
  // CHECK-SAME: lowc.kind = "product", lowc.matmul = "generics:0", lowc.shape = "2x8x3x4"
  %z = linalg.batch_reduce_matmul ins(%a, %b : tensor<3x2x4xf32>, tensor<3x4x8xf32>)
      outs(%init2 : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y, %z : tensor<2x6x5xf32>, tensor<2x8xf32>
}

// -----
// Slices of one stored weight, as fused query, key and value projections have them.

util.global private @qkv.weight = #flow.parameter.named<"model"::"qkv.weight"> : tensor<4x24xf32>
// CHECK-LABEL: func.func @slices
func.func @slices(%x: tensor<2x4xf32>, %init: tensor<2x8xf32>)
    -> (tensor<2x8xf32>, tensor<2x8xf32>) {
  %w = util.global.load @qkv.weight : tensor<4x24xf32>
  %q = tensor.extract_slice %w[0, 0] [4, 8] [1, 1] : tensor<4x24xf32> to tensor<4x8xf32>
  %k = tensor.extract_slice %w[0, 8] [4, 8] [1, 2] : tensor<4x24xf32> to tensor<4x8xf32>
  // CHECK: linalg.matmul {lowc.kind = "weight", lowc.matmul = "qkv",
  %0 = linalg.matmul ins(%x, %q : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK: linalg.matmul {lowc.kind = "weight", lowc.matmul = "qkv#1",
  %1 = linalg.matmul ins(%x, %k : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %0, %1 : tensor<2x8xf32>, tensor<2x8xf32>
}

// -----
// A slice at a place that is only known at run time cannot be repeated on stored bytes.

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<4x24xf32>
// CHECK-LABEL: func.func @dynamic_slice
func.func @dynamic_slice(%x: tensor<2x4xf32>, %i: index, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %w = util.global.load @w : tensor<4x24xf32>
  %q = tensor.extract_slice %w[0, %i] [4, 8] [1, 1] : tensor<4x24xf32> to tensor<4x8xf32>
  // CHECK: linalg.matmul {lowc.kind = "product",
  %0 = linalg.matmul ins(%x, %q : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %0 : tensor<2x8xf32>
}

// -----
// Attention: the second product reads the first one, through whatever lies between.

// CHECK-LABEL: func.func @attention
func.func @attention(%q: tensor<2x3x4xf32>, %k: tensor<2x4x3xf32>, %v: tensor<2x3x4xf32>,
                     %i: tensor<2x3x3xf32>, %j: tensor<2x3x4xf32>) -> tensor<2x3x4xf32> {
  // CHECK: linalg.batch_matmul {lowc.kind = "product", lowc.matmul = "layer.0.attention:qk", lowc.shape = "2x3x3x4"}
  %s = linalg.batch_matmul ins(%q, %k : tensor<2x3x4xf32>, tensor<2x4x3xf32>)
      outs(%i : tensor<2x3x3xf32>) -> tensor<2x3x3xf32> loc("layer.0.attention")
  %e = tensor.empty() : tensor<2x3x3xf32>
  %p = linalg.softmax dimension(2) ins(%s : tensor<2x3x3xf32>) outs(%e : tensor<2x3x3xf32>) -> tensor<2x3x3xf32>
  // CHECK: linalg.batch_matmul {lowc.kind = "product", lowc.matmul = "layer.0.attention:pv", lowc.shape = "2x3x4x3"}
  %o = linalg.batch_matmul ins(%p, %v : tensor<2x3x3xf32>, tensor<2x3x4xf32>)
      outs(%j : tensor<2x3x4xf32>) -> tensor<2x3x4xf32> loc("layer.0.attention")
  return %o : tensor<2x3x4xf32>
}

// -----
// Two products that have nothing to do with each other are counted.

// CHECK-LABEL: func.func @two_products
func.func @two_products(%a: tensor<2x2xf32>, %i: tensor<2x2xf32>) -> (tensor<2x2xf32>, tensor<2x2xf32>) {
  // CHECK: lowc.matmul = "mix:0"
  %0 = linalg.matmul ins(%a, %a : tensor<2x2xf32>, tensor<2x2xf32>)
      outs(%i : tensor<2x2xf32>) -> tensor<2x2xf32> loc("mix")
  // CHECK: lowc.matmul = "mix:1"
  %1 = linalg.matmul ins(%a, %a : tensor<2x2xf32>, tensor<2x2xf32>)
      outs(%i : tensor<2x2xf32>) -> tensor<2x2xf32> loc("mix")
  return %0, %1 : tensor<2x2xf32>, tensor<2x2xf32>
}

// -----
// A product of two parameters has no single weight.

util.global private @a = #flow.parameter.named<"model"::"a"> : tensor<4x4xf32>
util.global private @b = #flow.parameter.named<"model"::"b"> : tensor<4x4xf32>
// CHECK-LABEL: func.func @two_parameters
func.func @two_parameters(%init: tensor<4x4xf32>) -> tensor<4x4xf32> {
  %a = util.global.load @a : tensor<4x4xf32>
  %b = util.global.load @b : tensor<4x4xf32>
  // CHECK: linalg.matmul {lowc.kind = "product", lowc.matmul = "two_parameters:0", lowc.shape = "4x4x4"}
  %y = linalg.matmul ins(%a, %b : tensor<4x4xf32>, tensor<4x4xf32>)
      outs(%init : tensor<4x4xf32>) -> tensor<4x4xf32>
  return %y : tensor<4x4xf32>
}

// -----
// Dynamic rows.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<4x8xf32>
// CHECK-LABEL: func.func @dynamic
func.func @dynamic(%x: tensor<?x?xf32>, %init: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %w = util.global.load @fc.weight : tensor<4x8xf32>
  // CHECK: linalg.matmul {lowc.kind = "weight", lowc.matmul = "fc", lowc.shape = "?x8x4"}
  %y = linalg.matmul ins(%x, %w : tensor<?x?xf32>, tensor<4x8xf32>)
      outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----
// A bfloat16 weight that is widened before the product, and a product that widens in its body.

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<4x8xbf16>
// CHECK-LABEL: func.func @bfloat16
func.func @bfloat16(%x: tensor<2x4xf32>, %h: tensor<2x4xbf16>, %init: tensor<2x8xf32>)
    -> (tensor<2x8xf32>, tensor<2x8xf32>) {
  %w = util.global.load @w : tensor<4x8xbf16>
  %e = tensor.empty() : tensor<4x8xf32>
  %wide = linalg.generic {
      indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%w : tensor<4x8xbf16>) outs(%e : tensor<4x8xf32>) {
  ^bb0(%in: bf16, %out: f32):
    %c = arith.extf %in : bf16 to f32
    linalg.yield %c : f32
  } -> tensor<4x8xf32>
  // CHECK: linalg.matmul {lowc.kind = "weight", lowc.matmul = "w", lowc.shape = "2x8x4"}
  %0 = linalg.matmul ins(%x, %wide : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK: linalg.matmul {lowc.kind = "weight", lowc.matmul = "w#1", lowc.shape = "2x8x4"}
  %1 = linalg.matmul ins(%h, %w : tensor<2x4xbf16>, tensor<4x8xbf16>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %0, %1 : tensor<2x8xf32>, tensor<2x8xf32>
}

// -----
// A reshape between the parameter and the product.

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<2x2x8xf32>
// CHECK-LABEL: func.func @reshaped
func.func @reshaped(%x: tensor<2x4xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %w = util.global.load @w : tensor<2x2x8xf32>
  %r = tensor.collapse_shape %w [[0, 1], [2]] : tensor<2x2x8xf32> into tensor<4x8xf32>
  // CHECK: linalg.matmul {lowc.kind = "weight", lowc.matmul = "w", lowc.shape = "2x8x4"}
  %y = linalg.matmul ins(%x, %r : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Arithmetic on the weight is no layout: what the product reads is not stored anywhere.

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<4x8xf32>
// CHECK-LABEL: func.func @computed
func.func @computed(%x: tensor<2x4xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %w = util.global.load @w : tensor<4x8xf32>
  %e = math.exp %w : tensor<4x8xf32>
  // CHECK: linalg.matmul {lowc.kind = "product",
  %y = linalg.matmul ins(%x, %e : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// A convolution is named as a sum of products over windows: image, channels, summed.  An elementwise
// product and a sum are no contractions.

util.global private @conv.weight = #flow.parameter.named<"model"::"conv.weight"> : tensor<8x3x3x3xf32>
// CHECK-LABEL: func.func @convolution
// CHECK: linalg.conv_2d_nchw_fchw {lowc.kind = "weight", lowc.matmul = "conv", lowc.shape = "1x4x4x8x3x3x3"}
// CHECK-NOT: lowc.
func.func @convolution(%x: tensor<1x3x6x6xf32>, %i: tensor<1x8x4x4xf32>, %s: tensor<1x8xf32>)
    -> tensor<1x8xf32> {
  %w = util.global.load @conv.weight : tensor<8x3x3x3xf32>
  // expected-remark@+1 {{conv: weight, 1x4x4x8x3x3x3}}
  %c = linalg.conv_2d_nchw_fchw ins(%x, %w : tensor<1x3x6x6xf32>, tensor<8x3x3x3xf32>)
      outs(%i : tensor<1x8x4x4xf32>) -> tensor<1x8x4x4xf32>
  %e = tensor.empty() : tensor<1x8x4x4xf32>
  %m = linalg.generic {
      indexing_maps = [affine_map<(n, c, h, w) -> (n, c, h, w)>, affine_map<(n, c, h, w) -> (n, c, h, w)>,
                       affine_map<(n, c, h, w) -> (n, c, h, w)>],
      iterator_types = ["parallel", "parallel", "parallel", "parallel"]}
      ins(%c, %c : tensor<1x8x4x4xf32>, tensor<1x8x4x4xf32>) outs(%e : tensor<1x8x4x4xf32>) {
  ^bb0(%l: f32, %r: f32, %out: f32):
    %p = arith.mulf %l, %r : f32
    linalg.yield %p : f32
  } -> tensor<1x8x4x4xf32>
  %r = linalg.reduce ins(%m : tensor<1x8x4x4xf32>) outs(%s : tensor<1x8xf32>) dimensions = [2, 3]
    (%in: f32, %acc: f32) {
      %0 = arith.addf %in, %acc : f32
      linalg.yield %0 : f32
    }
  return %r : tensor<1x8xf32>
}
