// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"powers*\",\"form\":\"shift\"},{\"match\":\"ternary*\",\"form\":\"ternary\",\"tables\":\"none\"},{\"match\":\"columns*\",\"form\":\"binary\",\"method\":\"bcq\",\"planes\":1,\"group\":1,\"outputs\":0,\"terms\":1,\"tables\":\"none\"},{\"match\":\"blocks*\",\"form\":\"binary\",\"method\":\"bcq\",\"planes\":2,\"group\":8,\"outputs\":3,\"tables\":\"none\"},{\"match\":\"tables*\",\"form\":\"binary\",\"method\":\"bcq\",\"planes\":2},{\"match\":\"*\",\"form\":\"binary\",\"method\":\"bcq\",\"planes\":2,\"group\":64,\"tables\":\"none\"}]"},lowc-lower-shift-add,lowc-verify-no-multiplication,canonicalize,cse)' | filecheck %s

// Signed sums of words, sums of the words of a group, and a shift for each term of a scale.

// CHECK-DAG: util.global private @fc.weight.b2g64o1t3.signs {lowc.derivation = {{{.*}}kind = "binary", {{.*}}part = "signs", planes = 2 : i64{{.*}}} = #flow.parameter.named<"model"::"fc.weight.b2g64o1t3.signs"> : tensor<8x2x2xi32>
// CHECK-DAG: util.global private @fc.weight.b2g64o1t3.terms {{.*}} : tensor<8x1x2xi32>
util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x64xf32>
// CHECK-LABEL: func.func @linear
// CHECK-SAME: (%[[X:.*]]: tensor<2x64xf32>)
func.func @linear(%x: tensor<2x64xf32>) -> tensor<2x8xf32> {
  // CHECK-NOT: arith.mul
  // CHECK-DAG: %[[LAST:.*]] = arith.constant 31 : index
  // CHECK-DAG: %[[SIGN:.*]] = arith.constant -2147483648 : i32
  // CHECK-DAG: %[[C23:.*]] = arith.constant 23 : i32
  // CHECK-DAG: %[[C8:.*]] = arith.constant 8 : i32
  // CHECK-DAG: %[[BIAS:.*]] = arith.constant 805306368 : i32
  // CHECK: %[[W:.*]] = tensor.expand_shape %[[X]] {{\[\[}}0], [1, 2]] {{.*}} : tensor<2x64xf32> into tensor<2x2x32xf32>
  // CHECK: %[[B:.*]] = util.global.load @fc.weight.b2g64o1t3.signs
  // CHECK: %[[S:.*]] = linalg.generic {{.*}}["parallel", "parallel", "parallel", "parallel", "reduction"]} ins(%[[W]], %[[B]] : tensor<2x2x32xf32>, tensor<8x2x2xi32>) outs(%{{.*}} : tensor<2x8x2x2xf32>) attrs = {lowc.part = "fc"}
  // CHECK: ^bb0(%[[A:.*]]: f32, %[[WORD:.*]]: i32, %[[SUM:.*]]: f32):
  // CHECK: %[[AT:.*]] = linalg.index 4
  // CHECK: %[[UP:.*]] = arith.subi %[[LAST]], %[[AT]] : index
  // CHECK: %[[BY:.*]] = arith.index_castui %[[UP]] : index to i32
  // CHECK: %[[MOVED:.*]] = arith.shli %[[WORD]], %[[BY]] : i32
  // CHECK: %[[KEPT:.*]] = arith.andi %[[MOVED]], %[[SIGN]] : i32
  // CHECK: arith.xori %{{.*}}, %[[KEPT]] : i32
  // CHECK: arith.addf %[[SUM]], %{{.*}} : f32
  // CHECK: %[[G:.*]] = tensor.expand_shape %[[S]] {{.*}} into tensor<2x8x1x2x2xf32>
  // CHECK: %[[P:.*]] = linalg.generic {{.*}}["parallel", "parallel", "parallel", "reduction", "parallel"]} ins(%[[G]] : tensor<2x8x1x2x2xf32>) outs(%{{.*}} : tensor<2x8x1x2xf32>) attrs = {lowc.part = "fc"}
  // CHECK: %[[T:.*]] = util.global.load @fc.weight.b2g64o1t3.terms
  // CHECK: %[[PS:.*]] = tensor.collapse_shape %[[P]]
  // CHECK: %[[TS:.*]] = tensor.collapse_shape %[[T]]
  // CHECK: %[[Y:.*]] = linalg.generic {{.*}}["parallel", "parallel", "reduction"]} ins(%[[PS]], %[[TS]] : tensor<2x8x2xf32>, tensor<8x2xi32>) outs(%{{.*}} : tensor<2x8xf32>)
  // CHECK-SAME: lowc.bits = 3.000000e+00 : f64
  // CHECK-SAME: lowc.lowering = "2 planes of signs, groups of 64, scales of 3 powers of two; signed sums", lowc.matmul = "fc", lowc.product = "{\22kind\22: \22signed-sums\22,
  // CHECK: ^bb0(%[[V:.*]]: f32, %[[SCALE:.*]]: i32, %[[TOTAL:.*]]: f32):
  // CHECK: %[[FIELD:.*]] = arith.andi %[[SCALE]], %{{.*}} : i32
  // CHECK: %[[EXPONENT:.*]] = arith.shli %{{.*}}, %[[C23]] : i32
  // CHECK: %[[MORE:.*]] = arith.addi %{{.*}}, %[[EXPONENT]] : i32
  // CHECK: %[[MOST:.*]] = arith.minui %[[MORE]], %{{.*}} : i32
  // CHECK: arith.subi %[[MOST]], %[[BIAS]] : i32
  // CHECK: arith.shrui %[[SCALE]], %[[C8]] : i32
  // CHECK: arith.addf
  // CHECK: arith.addf
  // CHECK: arith.addf %[[TOTAL]], %{{.*}} : f32
  // CHECK: return %[[Y]]
  %w = util.global.load @fc.weight : tensor<8x64xf32>
  %c = arith.constant 0.0 : f32
  %i = tensor.empty() : tensor<2x8xf32>
  %init = linalg.fill ins(%c : f32) outs(%i : tensor<2x8xf32>) -> tensor<2x8xf32>
  %e = tensor.empty() : tensor<64x8xf32>
  %t = linalg.transpose ins(%w : tensor<8x64xf32>) outs(%e : tensor<64x8xf32>) permutation = [1, 0]
  // expected-remark@below {{fc: 2 planes of signs, groups of 64, scales of 3 powers of two; signed sums, 3 bits a weight}}
  %y = linalg.matmul ins(%x, %t : tensor<2x64xf32>, tensor<64x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// A scale for each input that all outputs share; rows known at run time, K filled up to whole words,
// and a sum that does not start at zero.

util.global private @columns.weight = #flow.parameter.named<"model"::"columns.weight"> : tensor<37x8xf32>
// CHECK-LABEL: func.func @columns
// CHECK-SAME: (%[[X:.*]]: tensor<?x37xf32>, %[[INIT:.*]]: tensor<?x8xf32>)
func.func @columns(%x: tensor<?x37xf32>, %init: tensor<?x8xf32>) -> tensor<?x8xf32> {
  // CHECK: tensor.pad %[[X]] low[0, 0] high[0, 27]
  // CHECK: linalg.generic {{.*}} ins(%{{.*}}, %{{.*}} : tensor<?x2x32x1xf32>, tensor<8x1x2xi32>) outs(%{{.*}} : tensor<?x8x2x32x1xf32>)
  // CHECK: %[[T:.*]] = tensor.pad %{{.*}} low[0, 0] high[27, 0]
  // CHECK: %[[Y:.*]] = linalg.generic {{.*}} : tensor<?x8x64xf32>, tensor<64xi32>) outs(%{{.*}} : tensor<?x8xf32>)
  // CHECK-SAME: lowc.matmul = "columns"
  // CHECK: linalg.generic {{.*}} ins(%[[INIT]], %[[Y]] : tensor<?x8xf32>, tensor<?x8xf32>)
  // CHECK: arith.addf
  %w = util.global.load @columns.weight : tensor<37x8xf32>
  // expected-remark@below {{columns: 1 plane of signs, groups of 1 x 8 outputs, scales of 1 power of two}}
  %y = linalg.matmul ins(%x, %w : tensor<?x37xf32>, tensor<37x8xf32>)
      outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----
// Blocks of inputs and outputs, the weight on the left, with a batch: each output looks up the scale
// of its block.

util.global private @blocks.weight = #flow.parameter.named<"model"::"blocks.weight"> : tensor<3x8x32xf32>
// CHECK-LABEL: func.func @blocks
func.func @blocks(%x: tensor<3x32x2xf16>, %init: tensor<3x8x2xf32>) -> tensor<3x8x2xf32> {
  // CHECK-DAG: %[[THREE:.*]] = arith.constant 3 : index
  // CHECK: arith.extf %{{.*}} : f16 to f32
  // CHECK: linalg.generic {{.*}} ins(%{{.*}}, %{{.*}} : tensor<3x1x4x8x2xf32>, tensor<3x8x2x1xi32>) outs(%{{.*}} : tensor<3x8x2x1x4x2xf32>)
  // CHECK: %[[KEPT:.*]] = util.optimization_barrier %{{.*}} : tensor<3x3x4x2xi32>
  // CHECK: linalg.generic {{.*}} outs(%{{.*}} : tensor<3x8x4x2xi32>)
  // CHECK: %[[BLOCK:.*]] = arith.divui %{{.*}}, %[[THREE]] : index
  // CHECK: tensor.extract %[[KEPT]][%{{.*}}, %[[BLOCK]], %{{.*}}, %{{.*}}]
  // CHECK: linalg.generic {{.*}} : tensor<3x8x2x8xf32>, tensor<3x8x8xi32>) outs(%{{.*}} : tensor<3x8x2xf32>)
  %w = util.global.load @blocks.weight : tensor<3x8x32xf32>
  %e = tensor.empty() : tensor<3x32x2xf32>
  %wide = linalg.generic {indexing_maps = [affine_map<(a, b, c) -> (a, b, c)>, affine_map<(a, b, c) -> (a, b, c)>],
      iterator_types = ["parallel", "parallel", "parallel"]} ins(%x : tensor<3x32x2xf16>) outs(%e : tensor<3x32x2xf32>) {
  ^bb0(%in: f16, %out: f32):
    %1 = arith.extf %in : f16 to f32
    linalg.yield %1 : f32
  } -> tensor<3x32x2xf32>
  // expected-remark@below {{blocks: 2 planes of signs, groups of 8 x 3 outputs}}
  %y = linalg.batch_matmul ins(%w, %wide : tensor<3x8x32xf32>, tensor<3x32x2xf32>)
      outs(%init : tensor<3x8x2xf32>) -> tensor<3x8x2xf32>
  return %y : tensor<3x8x2xf32>
}

// -----
// Powers of two, a byte each: one sum, K filled up to whole words.  Ternary weights: the scale comes
// after the product, which is not counted as a part of it.

util.global private @powers.weight = #flow.parameter.named<"model"::"powers.weight"> : tensor<37x8xf32>
util.global private @ternary.weight = #flow.parameter.named<"model"::"ternary.weight"> : tensor<37x8xf32>
// CHECK-LABEL: func.func @whole
// CHECK-SAME: (%[[X:.*]]: tensor<?x37xf32>
func.func @whole(%x: tensor<?x37xf32>, %init: tensor<?x8xf32>) -> (tensor<?x8xf32>, tensor<?x8xf32>) {
  // CHECK: %[[PAD:.*]] = tensor.pad %[[X]] low[0, 0] high[0, 3]
  // CHECK: %[[T:.*]] = util.global.load @powers.weight.shift.t10.terms : tensor<8x40xi8>
  // CHECK: linalg.generic {{.*}}["parallel", "parallel", "reduction"]} ins(%[[PAD]], %[[T]] : tensor<?x40xf32>, tensor<8x40xi8>) outs(%{{.*}} : tensor<?x8xf32>)
  // CHECK-SAME: lowc.lowering = "every weight a power of two"
  // CHECK: arith.shli
  // CHECK: arith.addi
  // CHECK: util.global.load @ternary.weight.ternary64.{{.*}}.signs : tensor<8x2x2xi32>
  // CHECK: util.global.load @ternary.weight.ternary64.{{.*}}.terms : tensor<1x2xi32>
  // CHECK: %[[Y:.*]] = linalg.generic {{.*}}lowc.lowering = "-1, 0 and 1 in 2 planes of signs, one scale; signed sums"
  // CHECK: %[[SCALE:.*]] = util.global.load @ternary.weight.ternary64.{{.*}}.scale : tensor<f32>
  // CHECK: linalg.generic {{.*}} ins(%[[Y]], %[[SCALE]] : tensor<?x8xf32>, tensor<f32>)
  // CHECK: arith.mulf
  %w = util.global.load @powers.weight : tensor<37x8xf32>
  // expected-remark@below {{powers: every weight a power of two, 8.65 bits a weight}}
  %y = linalg.matmul ins(%x, %w : tensor<?x37xf32>, tensor<37x8xf32>)
      outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
  %v = util.global.load @ternary.weight : tensor<37x8xf32>
  // expected-remark@below {{ternary: -1, 0 and 1 in 2 planes of signs, one scale; signed sums}}
  %z = linalg.matmul ins(%x, %v : tensor<?x37xf32>, tensor<37x8xf32>)
      outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y, %z : tensor<?x8xf32>, tensor<?x8xf32>
}

// -----
// Refused: no weight, doubles, scales that would be most of the bits.  Tables are another pass's.

util.global private @wide = #flow.parameter.named<"model"::"wide"> : tensor<16x8xf64>
util.global private @short = #flow.parameter.named<"model"::"short"> : tensor<2x8xf32>
util.global private @tables = #flow.parameter.named<"model"::"tables"> : tensor<128x8xf32>
// CHECK-LABEL: func.func @refused
func.func @refused(%x: tensor<2x16xf64>, %i: tensor<2x8xf64>, %a: tensor<2x16xf32>, %b: tensor<16x8xf32>, %j: tensor<2x8xf32>, %s: tensor<2x2xf32>, %t: tensor<2x128xf32>)
    -> (tensor<2x8xf64>, tensor<2x8xf32>, tensor<2x8xf32>, tensor<2x8xf32>) {
  // CHECK: lowc.lowering = "exact (it is calculated in f64, and shifts are of f32)"
  // CHECK: lowc.lowering = "exact (a product of two activations has no weight)"
  // CHECK: lowc.lowering = "exact (N x K = 8 x 2 is too small: 64 bits a weight where 32 are stored)"
  // CHECK: linalg.matmul {{{.*}}lowc.matmul = "tables"
  %w = util.global.load @wide : tensor<16x8xf64>
  // expected-remark@below {{wide: not rewritten: it is calculated in f64}}
  %0 = linalg.matmul ins(%x, %w : tensor<2x16xf64>, tensor<16x8xf64>)
      outs(%i : tensor<2x8xf64>) -> tensor<2x8xf64>
  // expected-remark@below {{refused:0: not rewritten: a product of two activations has no weight}}
  %1 = linalg.matmul ins(%a, %b : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%j : tensor<2x8xf32>) -> tensor<2x8xf32>
  %v = util.global.load @short : tensor<2x8xf32>
  // expected-remark@below {{short: not rewritten: N x K = 8 x 2 is too small}}
  %2 = linalg.matmul ins(%s, %v : tensor<2x2xf32>, tensor<2x8xf32>)
      outs(%j : tensor<2x8xf32>) -> tensor<2x8xf32>
  %u = util.global.load @tables : tensor<128x8xf32>
  %3 = linalg.matmul ins(%t, %u : tensor<2x128xf32>, tensor<128x8xf32>)
      outs(%j : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %0, %1, %2, %3 : tensor<2x8xf64>, tensor<2x8xf32>, tensor<2x8xf32>, tensor<2x8xf32>
}
