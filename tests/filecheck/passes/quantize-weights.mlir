// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"exact*\",\"form\":\"exact\"},{\"match\":\"zero*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16,\"symmetric\":false},{\"match\":\"byte*\",\"form\":\"dequant\",\"weights\":\"i8\",\"group\":0},{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16}]"},lowc-quantize-weights,canonicalize,cse,symbol-dce)' | filecheck %s
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16,\"symmetric\":false}]"},lowc-quantize-weights{packing=words},canonicalize)' | filecheck %s --check-prefix=WORDS

// In words of 32 bits, a code is found by shifts, and a zero point has a word of its own.
// WORDS-LABEL: func.func @linear
// WORDS: util.global.load @fc.weight.i4g16zw.codes : tensor<8x2x2xi32>
// WORDS: linalg.generic {{.*}} : tensor<8x2x2xi32>, tensor<8x2xf32>, tensor<8x2xi32>) outs(%{{.*}} : tensor<8x2x2x8xf32>)
// WORDS: %[[I:.*]] = linalg.index 3 : index
// WORDS: %[[P:.*]] = arith.muli %[[I]], %c4{{.*}} : index
// WORDS: %[[S:.*]] = arith.index_cast %[[P]] : index to i32
// WORDS: %[[R:.*]] = arith.shrui %{{.*}}, %[[S]] : i32
// WORDS: arith.andi %[[R]], %c15{{.*}} : i32
// WORDS: tensor.collapse_shape %{{.*}} {{\[\[}}0], [1, 2, 3]] : tensor<8x2x2x8xf32> into tensor<8x32xf32>

// A linear layer whose K is two groups: codes are [N, G, g], and nothing is transposed any more.

// CHECK-NOT: @fc.weight =
// CHECK-DAG: util.global private @fc.weight.i4g16.codes {lowc.derivation = {bits = 4 : i64, group = 16 : i64, kind = "rtn", layout = "[]", part = "codes", source = "fc.weight", symmetric = true, zero_bytes = 1 : i64}} = #flow.parameter.named<"model"::"fc.weight.i4g16.codes"> : tensor<8x2x16xi4>
// CHECK-DAG: util.global private @fc.weight.i4g16.scales {lowc.derivation = {{.*}}part = "scales"{{.*}} : tensor<8x2xf32>
util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x32xf32>
// CHECK-LABEL: func.func @linear
// CHECK-SAME: (%[[X:.*]]: tensor<2x32xf32>, %[[INIT:.*]]: tensor<2x8xf32>)
func.func @linear(%x: tensor<2x32xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK-NOT: linalg.transpose
  // CHECK: %[[Q:.*]] = util.global.load @fc.weight.i4g16.codes : tensor<8x2x16xi4>
  // CHECK: %[[CODES:.*]] = util.optimization_barrier %[[Q]]
  // CHECK: %[[SCALES:.*]] = util.global.load @fc.weight.i4g16.scales : tensor<8x2xf32>
  // CHECK: %[[D:.*]] = linalg.generic {{.*}} ins(%[[CODES]], %[[SCALES]] : tensor<8x2x16xi4>, tensor<8x2xf32>)
  // CHECK: %[[F:.*]] = arith.sitofp %{{.*}} : i4 to f32
  // CHECK: arith.mulf %[[F]], %{{.*}} : f32
  // CHECK: %[[W:.*]] = tensor.collapse_shape %[[D]] {{\[\[}}0], [1, 2]] : tensor<8x2x16xf32> into tensor<8x32xf32>
  // CHECK-NOT: tensor.pad
  // CHECK: linalg.generic {{.*}}iterator_types = ["parallel", "parallel", "reduction"]} ins(%[[X]], %[[W]] : tensor<2x32xf32>, tensor<8x32xf32>) outs(%[[INIT]] : tensor<2x8xf32>)
  // CHECK-SAME: lowc.bits = 6.000000e+00 : f64
  // CHECK-SAME: lowc.lowering = "dequantised i4, then exact", lowc.matmul = "fc", lowc.shape = "2x8x32"
  %w = util.global.load @fc.weight : tensor<8x32xf32>
  %e = tensor.empty() : tensor<32x8xf32>
  %t = linalg.transpose ins(%w : tensor<8x32xf32>) outs(%e : tensor<32x8xf32>) permutation = [1, 0]
  // expected-remark@below {{fc: i4, 2 groups of 16, 6 bits a weight}}
  %y = linalg.matmul ins(%x, %t : tensor<2x32xf32>, tensor<32x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// K that is not whole groups: the activation is padded to meet the padded codes.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x37xf32>
// CHECK-LABEL: func.func @tail_group
func.func @tail_group(%x: tensor<?x37xf32>, %init: tensor<?x8xf32>) -> tensor<?x8xf32> {
  // CHECK: util.global.load @fc.weight.i4g16.codes : tensor<8x3x16xi4>
  // CHECK: tensor.pad %{{.*}} low[0, 0] high[0, 11]
  // CHECK: tensor<?x37xf32> to tensor<?x48xf32>
  %w = util.global.load @fc.weight : tensor<8x37xf32>
  %e = tensor.empty() : tensor<37x8xf32>
  %t = linalg.transpose ins(%w : tensor<8x37xf32>) outs(%e : tensor<37x8xf32>) permutation = [1, 0]
  // expected-remark@below {{fc: i4, 3 groups of 16}}
  %y = linalg.matmul ins(%x, %t : tensor<?x37xf32>, tensor<37x8xf32>)
      outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----
// Asymmetric: unsigned codes, a zero point for each group in a byte of its own.

util.global private @zero.weight = #flow.parameter.named<"model"::"zero.weight"> : tensor<8x32xf32>
// CHECK-LABEL: func.func @zero_points
func.func @zero_points(%x: tensor<2x32xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK-DAG: util.global.load @zero.weight.i4g16z.{{.*}}codes : tensor<8x2x16xi4>
  // CHECK-DAG: util.global.load @zero.weight.i4g16z.{{.*}}scales : tensor<8x2xf32>
  // CHECK-DAG: util.global.load @zero.weight.i4g16z.{{.*}}zeros : tensor<8x2xi8>
  // CHECK: %[[Q:.*]] = arith.extui %{{.*}} : i4 to i32
  // CHECK: %[[Z:.*]] = arith.extui %{{.*}} : i8 to i32
  // CHECK: arith.subi %[[Q]], %[[Z]] : i32
  %w = util.global.load @zero.weight : tensor<8x32xf32>
  %e = tensor.empty() : tensor<32x8xf32>
  %t = linalg.transpose ins(%w : tensor<8x32xf32>) outs(%e : tensor<32x8xf32>) permutation = [1, 0]
  // expected-remark@below {{zero: i4, 2 groups of 16, 6.5 bits a weight}}
  %y = linalg.matmul ins(%x, %t : tensor<2x32xf32>, tensor<32x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// group = 0 is one group for all of K, padded to a multiple of 16 codes.  The weight is stored
// [K, N] here, so that its derivation transposes.

util.global private @bytes = #flow.parameter.named<"model"::"bytes"> : tensor<6x8xf32>
// CHECK-LABEL: func.func @one_group
func.func @one_group(%x: tensor<2x6xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK: util.global.load @bytes.i8g16.t10.codes : tensor<8x1x16xi8>
  // CHECK: high[0, 10]
  %w = util.global.load @bytes : tensor<6x8xf32>
  // expected-remark@below {{bytes: i8, 1 groups of 16}}
  %y = linalg.matmul ins(%x, %w : tensor<2x6xf32>, tensor<6x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// The weight on the left, and as the matrix of a matvec; K stays the last dimension of the codes.

util.global private @left = #flow.parameter.named<"model"::"left"> : tensor<8x16xf32>
// CHECK-LABEL: func.func @weight_on_the_left
func.func @weight_on_the_left(%x: tensor<16x2xf32>, %v: tensor<16xf32>, %i: tensor<8x2xf32>, %j: tensor<8xf32>)
    -> (tensor<8x2xf32>, tensor<8xf32>) {
  // CHECK: util.global.load @left.i4g16.codes : tensor<8x1x16xi4>
  // CHECK: linalg.generic {{.*}} ins(%{{.*}}, %{{.*}} : tensor<8x16xf32>, tensor<16x2xf32>) outs
  // CHECK: linalg.generic {{.*}} ins(%{{.*}}, %{{.*}} : tensor<8x16xf32>, tensor<16xf32>) outs
  %w = util.global.load @left : tensor<8x16xf32>
  // expected-remark@below {{left: i4, 1 groups of 16}}
  %0 = linalg.matmul ins(%w, %x : tensor<8x16xf32>, tensor<16x2xf32>)
      outs(%i : tensor<8x2xf32>) -> tensor<8x2xf32>
  // expected-remark@below {{left#1: i4, 1 groups of 16}}
  %1 = linalg.matvec ins(%w, %v : tensor<8x16xf32>, tensor<16xf32>)
      outs(%j : tensor<8xf32>) -> tensor<8xf32>
  return %0, %1 : tensor<8x2xf32>, tensor<8xf32>
}

// -----
// A weight that is repeated along the batch is stored once, without the batch.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<16x8xf32>
// CHECK-LABEL: func.func @broadcast
func.func @broadcast(%x: tensor<?x2x16xf32>, %e: tensor<?x16x8xf32>, %init: tensor<?x2x8xf32>)
    -> tensor<?x2x8xf32> {
  // CHECK: util.global.load @fc.weight.i4g16.t10.codes : tensor<8x1x16xi4>
  // CHECK-NOT: linalg.broadcast
  // CHECK: linalg.generic {{.*}} ins(%{{.*}}, %{{.*}} : tensor<?x2x16xf32>, tensor<8x16xf32>)
  %w = util.global.load @fc.weight : tensor<16x8xf32>
  %b = linalg.broadcast ins(%w : tensor<16x8xf32>) outs(%e : tensor<?x16x8xf32>) dimensions = [0]
  // expected-remark@below {{fc: i4, 1 groups of 16}}
  %y = linalg.batch_matmul ins(%x, %b : tensor<?x2x16xf32>, tensor<?x16x8xf32>)
      outs(%init : tensor<?x2x8xf32>) -> tensor<?x2x8xf32>
  return %y : tensor<?x2x8xf32>
}

// -----
// One weight per batch entry keeps its batch.

util.global private @experts = #flow.parameter.named<"model"::"experts"> : tensor<3x16x8xf32>
// CHECK-LABEL: func.func @batched
func.func @batched(%x: tensor<3x2x16xf32>, %init: tensor<3x2x8xf32>) -> tensor<3x2x8xf32> {
  // CHECK: util.global.load @experts.i4g16.t021.codes : tensor<3x8x1x16xi4>
  %w = util.global.load @experts : tensor<3x16x8xf32>
  // expected-remark@below {{experts: i4, 1 groups of 16}}
  %y = linalg.batch_matmul ins(%x, %w : tensor<3x2x16xf32>, tensor<3x16x8xf32>)
      outs(%init : tensor<3x2x8xf32>) -> tensor<3x2x8xf32>
  return %y : tensor<3x2x8xf32>
}

// -----
// Two slices of one parameter are two derived weights; the same slice twice is one.

util.global private @qkv = #flow.parameter.named<"model"::"qkv"> : tensor<16x24xf32>
// CHECK-COUNT-2: util.global private @qkv.i4g16.{{.*}}.codes
// CHECK-NOT: util.global private @qkv.i4g16.{{.*}}.codes
// CHECK: func.func @slices
func.func @slices(%x: tensor<2x16xf32>, %y: tensor<2x16xf32>, %init: tensor<2x8xf32>)
    -> (tensor<2x8xf32>, tensor<2x8xf32>, tensor<2x8xf32>) {
  %w = util.global.load @qkv : tensor<16x24xf32>
  %q = tensor.extract_slice %w[0, 0] [16, 8] [1, 1] : tensor<16x24xf32> to tensor<16x8xf32>
  %k = tensor.extract_slice %w[0, 8] [16, 8] [1, 1] : tensor<16x24xf32> to tensor<16x8xf32>
  // expected-remark@below {{qkv: i4}}
  %0 = linalg.matmul ins(%x, %q : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  // expected-remark@below {{qkv#1: i4}}
  %1 = linalg.matmul ins(%x, %k : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  // expected-remark@below {{qkv#2: i4}}
  %2 = linalg.matmul ins(%y, %q : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %0, %1, %2 : tensor<2x8xf32>, tensor<2x8xf32>, tensor<2x8xf32>
}

// -----
// A bfloat16 weight: its dequantised value is not rounded to bfloat16 again.

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<8x16xbf16>
// CHECK-LABEL: func.func @bfloat16
func.func @bfloat16(%h: tensor<2x16xbf16>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK: util.global.load @w.i4g16.codes : tensor<8x1x16xi4>
  // CHECK-NOT: arith.truncf
  // CHECK: ins(%{{.*}}, %{{.*}} : tensor<2x16xbf16>, tensor<8x16xf32>)
  // CHECK: arith.extf %{{.*}} : bf16 to f32
  %w = util.global.load @w : tensor<8x16xbf16>
  %e = tensor.empty() : tensor<16x8xbf16>
  %t = linalg.transpose ins(%w : tensor<8x16xbf16>) outs(%e : tensor<16x8xbf16>) permutation = [1, 0]
  // expected-remark@below {{w: i4, 1 groups of 16}}
  %y = linalg.matmul ins(%h, %t : tensor<2x16xbf16>, tensor<16x8xbf16>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// A matmul of another form stays, and its weight is still read.

// CHECK: util.global private @exact.weight
util.global private @exact.weight = #flow.parameter.named<"model"::"exact.weight"> : tensor<16x8xf32>
// CHECK-LABEL: func.func @exact
func.func @exact(%x: tensor<2x16xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK: linalg.matmul {lowc.form = {form = "exact"}
  %w = util.global.load @exact.weight : tensor<16x8xf32>
  %y = linalg.matmul ins(%x, %w : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Refused: no weight.  The reason stays on the operation for the report.

// CHECK-LABEL: func.func @activations
func.func @activations(%a: tensor<2x16xf32>, %b: tensor<16x8xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK: linalg.matmul {{.*}}lowc.lowering = "exact (a product of two activations has no weight)"
  // expected-remark@below {{activations:0: not quantised: a product of two activations has no weight}}
  %y = linalg.matmul ins(%a, %b : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Refused: two weights.

util.global private @a = #flow.parameter.named<"model"::"a"> : tensor<16x16xf32>
util.global private @b = #flow.parameter.named<"model"::"b"> : tensor<16x16xf32>
func.func @parameters(%init: tensor<16x16xf32>) -> tensor<16x16xf32> {
  %a = util.global.load @a : tensor<16x16xf32>
  %b = util.global.load @b : tensor<16x16xf32>
  // expected-remark@below {{parameters:0: not quantised: both operands are parameters}}
  %y = linalg.matmul ins(%a, %b : tensor<16x16xf32>, tensor<16x16xf32>)
      outs(%init : tensor<16x16xf32>) -> tensor<16x16xf32>
  return %y : tensor<16x16xf32>
}

// -----
// Refused: the model writes to the buffer, or its value is not in the parameter archive.

util.global private mutable @state = #flow.parameter.named<"model"::"state"> : tensor<16x8xf32>
util.global private @constant = dense<1.0> : tensor<16x8xf32>
func.func @no_parameter(%x: tensor<2x16xf32>, %init: tensor<2x8xf32>) -> (tensor<2x8xf32>, tensor<2x8xf32>) {
  %s = util.global.load @state : tensor<16x8xf32>
  %c = util.global.load @constant : tensor<16x8xf32>
  // expected-remark@below {{state: not quantised: the global 'state' is no parameter, or the model writes to it}}
  %0 = linalg.matmul ins(%x, %s : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  // expected-remark@below {{constant: not quantised: the global 'constant' is no parameter}}
  %1 = linalg.matmul ins(%x, %c : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %0, %1 : tensor<2x8xf32>, tensor<2x8xf32>
}

// -----
// Refused: a sum over two dimensions.

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<3x16x8xf32>
func.func @two_sums(%x: tensor<3x2x16xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %w = util.global.load @w : tensor<3x16x8xf32>
  // expected-remark@below {{w: not quantised: it sums over 2 dimensions}}
  %y = linalg.batch_reduce_matmul ins(%x, %w : tensor<3x2x16xf32>, tensor<3x16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Refused: integers are not made floats.

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<16x8xi32>
func.func @integers(%x: tensor<2x16xi32>, %init: tensor<2x8xi32>) -> tensor<2x8xi32> {
  %w = util.global.load @w : tensor<16x8xi32>
  // expected-remark@below {{w: not quantised: the weight is of type i32}}
  %y = linalg.matmul ins(%x, %w : tensor<2x16xi32>, tensor<16x8xi32>)
      outs(%init : tensor<2x8xi32>) -> tensor<2x8xi32>
  return %y : tensor<2x8xi32>
}

// -----
// Refused: a vector that is repeated along K has no dimension to cut into groups.

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<8xf32>
func.func @no_k(%x: tensor<2x16xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %w = util.global.load @w : tensor<8xf32>
  %e = tensor.empty() : tensor<16x8xf32>
  %b = linalg.broadcast ins(%w : tensor<8xf32>) outs(%e : tensor<16x8xf32>) dimensions = [0]
  // expected-remark@below {{w: not quantised: the weight does not have the summed dimension}}
  %y = linalg.matmul ins(%x, %b : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Refused: nothing to store.

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<16x0xf32>
func.func @empty(%x: tensor<2x16xf32>, %init: tensor<2x0xf32>) -> tensor<2x0xf32> {
  %w = util.global.load @w : tensor<16x0xf32>
  // expected-remark@below {{w: not quantised: the weight is empty}}
  %y = linalg.matmul ins(%x, %w : tensor<2x16xf32>, tensor<16x0xf32>)
      outs(%init : tensor<2x0xf32>) -> tensor<2x0xf32>
  return %y : tensor<2x0xf32>
}

// -----

// One group is a whole vector of codes: with few weights in a row they would take more than floats.

util.global private @bytes = #flow.parameter.named<"model"::"bytes"> : tensor<5x8xf32>
// CHECK-LABEL: func.func @too_short
func.func @too_short(%x: tensor<2x5xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK: util.global.load @bytes : tensor<5x8xf32>
  // CHECK: linalg.matmul
  %w = util.global.load @bytes : tensor<5x8xf32>
  // expected-remark@below {{bytes: not quantised: K = 5 is too short: 32 bits a weight where 32 are stored}}
  %y = linalg.matmul ins(%x, %w : tensor<2x5xf32>, tensor<5x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}
