// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"float*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16},{\"match\":\"row*\",\"form\":\"dequant\",\"weights\":\"i3\",\"group\":16,\"symmetric\":false,\"activations\":\"i8\"},{\"match\":\"long*\",\"form\":\"dequant\",\"weights\":\"i8\",\"group\":0,\"activations\":\"i8\"},{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16,\"activations\":\"i8\",\"activation-scale\":\"group\"}]"},lowc-quantize-weights,lowc-quantize-activations,canonicalize,cse)' | filecheck %s
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"float*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16},{\"match\":\"row*\",\"form\":\"dequant\",\"weights\":\"i3\",\"group\":16,\"symmetric\":false,\"activations\":\"i8\"},{\"match\":\"long*\",\"form\":\"dequant\",\"weights\":\"i8\",\"group\":0,\"activations\":\"i8\"},{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16,\"activations\":\"i8\",\"activation-scale\":\"group\"}]"},lowc-quantize-weights{packing=words},lowc-quantize-activations,canonicalize,cse)' | filecheck %s --check-prefix=WORDS

// Codes in words: the activation's are words too, and cut once more.
// WORDS-LABEL: func.func @linear
// WORDS: tensor.expand_shape %{{.*}} {{\[\[}}0], [1], [2, 3]] output_shape [2, 2, 2, 8] : tensor<2x2x16xi32> into tensor<2x2x2x8xi32>
// WORDS: linalg.generic {{.*}} ins(%{{.*}}, %{{.*}} : tensor<2x2x2x8xi32>, tensor<8x2x2xi32>) outs(%{{.*}} : tensor<2x8x2xi32>)
// WORDS: arith.shrsi
// WORDS-NOT: i8
// WORDS: arith.muli

// A scale per group: magnitudes, scales and reciprocals, codes, sums of each group, scaled sums.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x32xf32>
// CHECK-LABEL: func.func @linear
// CHECK-SAME: (%[[X:.*]]: tensor<2x32xf32>)
func.func @linear(%x: tensor<2x32xf32>) -> tensor<2x8xf32> {
  // CHECK-DAG: %[[ZERO:.*]] = arith.constant 0.000000e+00 : f32
  // CHECK-DAG: %[[MASK:.*]] = arith.constant 2147483647 : i32
  // CHECK-DAG: %[[SMALL:.*]] = arith.constant 58720256 : i32
  // CHECK-DAG: %[[CODES:.*]] = util.optimization_barrier %{{.*}} : tensor<8x2x16xi4>
  // CHECK-DAG: %[[S:.*]] = util.global.load @fc.weight.i4g16.scales : tensor<8x2xf32>
  // CHECK: %[[G:.*]] = tensor.expand_shape %[[X]] {{\[\[}}0], [1, 2]] {{.*}} : tensor<2x32xf32> into tensor<2x2x16xf32>
  // CHECK: %[[P:.*]] = linalg.generic {{.*}}["parallel", "parallel", "reduction"]} ins(%[[G]] : tensor<2x2x16xf32>) outs(%{{.*}} : tensor<2x2xi32>)
  // CHECK: %[[B:.*]] = arith.bitcast %{{.*}} : f32 to i32
  // CHECK: %[[M:.*]] = arith.andi %[[B]], %[[MASK]] : i32
  // CHECK: arith.maxui %[[M]], %{{.*}} : i32
  // CHECK: %[[T:.*]] = linalg.generic {{.*}} ins(%[[P]] : tensor<2x2xi32>)
  // CHECK: %[[V:.*]] = arith.divf %{{.*}}, %{{.*}} : f32
  // CHECK: %[[C:.*]] = arith.cmpi ult, %{{.*}}, %[[SMALL]] : i32
  // CHECK: arith.select %[[C]], %[[ZERO]], %[[V]] : f32
  // CHECK: %[[R:.*]] = linalg.generic {{.*}} ins(%[[P]] : tensor<2x2xi32>)
  // CHECK: %[[Q:.*]] = linalg.generic {{.*}} ins(%[[G]], %[[R]] : tensor<2x2x16xf32>, tensor<2x2xf32>) outs(%{{.*}} : tensor<2x2x16xi8>)
  // CHECK: arith.cmpf uno
  // CHECK: math.roundeven
  // CHECK: %[[D:.*]] = linalg.generic {{.*}}["parallel", "parallel", "parallel", "reduction"]} ins(%[[Q]], %[[CODES]] : tensor<2x2x16xi8>, tensor<8x2x16xi4>) outs(%{{.*}} : tensor<2x8x2xi32>) attrs = {lowc.part = "fc"}
  // CHECK: arith.extsi %{{.*}} : i4 to i32
  // CHECK: arith.muli
  // CHECK: %[[Y:.*]] = linalg.generic {{.*}}["parallel", "parallel", "reduction"]} ins(%[[D]], %[[S]], %[[T]] : tensor<2x8x2xi32>, tensor<8x2xf32>, tensor<2x2xf32>) outs(%{{.*}} : tensor<2x8xf32>)
  // CHECK-SAME: lowc.bits = 6.000000e+00 : f64
  // CHECK-SAME: lowc.lowering = "i4 x i8 in integers, activation scales by group", lowc.matmul = "fc", lowc.product = "{\22kind\22: \22integer\22,
  // CHECK: return %[[Y]]
  %w = util.global.load @fc.weight : tensor<8x32xf32>
  %c = arith.constant 0.0 : f32
  %i = tensor.empty() : tensor<2x8xf32>
  %init = linalg.fill ins(%c : f32) outs(%i : tensor<2x8xf32>) -> tensor<2x8xf32>
  %e = tensor.empty() : tensor<32x8xf32>
  %t = linalg.transpose ins(%w : tensor<8x32xf32>) outs(%e : tensor<32x8xf32>) permutation = [1, 0]
  // expected-remark@+2 {{fc: i4, 2 groups of 16}}
  // expected-remark@+1 {{fc: i4 x i8 in integers, activation scales by group}}
  %y = linalg.matmul ins(%x, %t : tensor<2x32xf32>, tensor<32x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// A scale per row, zero points, a tail group, rows known at run time, and a sum that does not start
// at zero.  Unsigned codes of 3 bits are bytes; what zero points take off is once per group.

util.global private @row.weight = #flow.parameter.named<"model"::"row.weight"> : tensor<8x37xf32>
// CHECK-LABEL: func.func @row_scale
// CHECK-SAME: (%[[X:.*]]: tensor<?x37xf32>, %[[INIT:.*]]: tensor<?x8xf32>)
func.func @row_scale(%x: tensor<?x37xf32>, %init: tensor<?x8xf32>) -> tensor<?x8xf32> {
  // CHECK: tensor.pad %[[X]] low[0, 0] high[0, 11]
  // CHECK: linalg.generic {{.*}}["parallel", "reduction", "reduction"]} ins(%{{.*}} : tensor<?x3x16xf32>) outs(%{{.*}} : tensor<?xi32>)
  // CHECK: %[[T:.*]] = linalg.generic {{.*}} outs(%{{.*}} : tensor<?xf32>)
  // CHECK: %[[Q:.*]] = linalg.generic {{.*}} outs(%{{.*}} : tensor<?x3x16xi8>)
  // CHECK: %[[D:.*]] = linalg.generic {{.*}} ins(%[[Q]], %{{.*}} : tensor<?x3x16xi8>, tensor<8x3x16xi8>) outs(%{{.*}} : tensor<?x8x3xi32>)
  // CHECK: arith.extui %{{.*}} : i8 to i32
  // CHECK: %[[R:.*]] = linalg.generic {{.*}} ins(%[[Q]] : tensor<?x3x16xi8>) outs(%{{.*}} : tensor<?x3xi32>)
  // CHECK: %[[SUM:.*]] = linalg.generic {{.*}} ins(%[[D]], %{{.*}}, %{{.*}}, %[[R]] : tensor<?x8x3xi32>, tensor<8x3xf32>, tensor<8x3xi8>, tensor<?x3xi32>) outs(%{{.*}} : tensor<?x8xf32>) attrs = {lowc.part = "row"}
  // CHECK: arith.subi
  // CHECK: %[[Y:.*]] = linalg.generic {{.*}} ins(%[[SUM]], %[[T]] : tensor<?x8xf32>, tensor<?xf32>)
  // CHECK-SAME: lowc.matmul = "row"
  // CHECK: linalg.generic {{.*}} ins(%[[INIT]], %[[Y]] : tensor<?x8xf32>, tensor<?x8xf32>)
  // CHECK: arith.addf
  %w = util.global.load @row.weight : tensor<8x37xf32>
  %e = tensor.empty() : tensor<37x8xf32>
  %t = linalg.transpose ins(%w : tensor<8x37xf32>) outs(%e : tensor<37x8xf32>) permutation = [1, 0]
  // expected-remark@+2 {{row: i3, 3 groups of 16}}
  // expected-remark@+1 {{row: i3 x i8 in integers, activation scales by row}}
  %y = linalg.matmul ins(%x, %t : tensor<?x37xf32>, tensor<37x8xf32>)
      outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----
// Two products of one activation round it once.

util.global private @q = #flow.parameter.named<"model"::"q"> : tensor<16x8xf32>
util.global private @k = #flow.parameter.named<"model"::"k"> : tensor<16x8xf32>
// CHECK-LABEL: func.func @shared
// CHECK-COUNT-1: math.roundeven
// CHECK-NOT: math.roundeven
func.func @shared(%x: tensor<2x16xf32>, %init: tensor<2x8xf32>) -> (tensor<2x8xf32>, tensor<2x8xf32>) {
  %q = util.global.load @q : tensor<16x8xf32>
  %k = util.global.load @k : tensor<16x8xf32>
  // expected-remark@+2 {{q: i4, 1 groups}}
  // expected-remark@+1 {{q: i4 x i8}}
  %0 = linalg.matmul ins(%x, %q : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  // expected-remark@+2 {{k: i4, 1 groups}}
  // expected-remark@+1 {{k: i4 x i8}}
  %1 = linalg.matmul ins(%x, %k : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %0, %1 : tensor<2x8xf32>, tensor<2x8xf32>
}

// -----
// The weight on the left, with a batch.

util.global private @experts = #flow.parameter.named<"model"::"experts"> : tensor<3x8x32xf32>
// CHECK-LABEL: func.func @batch_on_the_left
// CHECK: linalg.generic {{.*}}["parallel", "parallel", "reduction", "parallel"]} ins(%{{.*}} : tensor<3x2x16x2xf32>)
func.func @batch_on_the_left(%x: tensor<3x32x2xf32>, %init: tensor<3x8x2xf32>) -> tensor<3x8x2xf32> {
  // CHECK: ins(%{{.*}}, %{{.*}} : tensor<3x2x16x2xi8>, tensor<3x8x2x16xi4>) outs(%{{.*}} : tensor<3x8x2x2xi32>)
  // CHECK: ins(%{{.*}}, %{{.*}}, %{{.*}} : tensor<3x8x2x2xi32>, tensor<3x8x2xf32>, tensor<3x2x2xf32>) outs(%{{.*}} : tensor<3x8x2xf32>)
  %w = util.global.load @experts : tensor<3x8x32xf32>
  // expected-remark@+2 {{experts: i4, 2 groups}}
  // expected-remark@+1 {{experts: i4 x i8}}
  %y = linalg.batch_matmul ins(%w, %x : tensor<3x8x32xf32>, tensor<3x32x2xf32>)
      outs(%init : tensor<3x8x2xf32>) -> tensor<3x8x2xf32>
  return %y : tensor<3x8x2xf32>
}

// -----
// Activations that the form leaves alone.

util.global private @float.weight = #flow.parameter.named<"model"::"float.weight"> : tensor<16x8xf32>
// CHECK-LABEL: func.func @float_activations
func.func @float_activations(%x: tensor<2x16xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK-NOT: i32
  // CHECK: lowc.lowering = "dequantised i4, then exact"
  %w = util.global.load @float.weight : tensor<16x8xf32>
  // expected-remark@+1 {{float: i4, 1 groups of 16}}
  %y = linalg.matmul ins(%x, %w : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Refused: sums of doubles, sums that overflow.  What has no weight was refused before.

util.global private @wide = #flow.parameter.named<"model"::"wide"> : tensor<16x8xf64>
util.global private @long = #flow.parameter.named<"model"::"long"> : tensor<70000x2xf32>
// CHECK-LABEL: func.func @refused
func.func @refused(%x: tensor<2x16xf64>, %i: tensor<2x8xf64>, %l: tensor<1x70000xf32>, %j: tensor<1x2xf32>, %v: tensor<16x8xf64>)
    -> (tensor<2x8xf64>, tensor<1x2xf32>, tensor<2x8xf64>) {
  // CHECK: lowc.lowering = "dequantised i4, then exact; activations stay floats (it is calculated in f64, and scales are f32)"
  // CHECK: lowc.lowering = "dequantised i8, then exact; activations stay floats (a sum of 70016 products may not fit 32 bits; 66311 do)"
  %w = util.global.load @wide : tensor<16x8xf64>
  %z = util.global.load @long : tensor<70000x2xf32>
  // expected-remark@+2 {{wide: i4, 1 groups}}
  // expected-remark@+1 {{wide: activations stay floats: it is calculated in f64}}
  %0 = linalg.matmul ins(%x, %w : tensor<2x16xf64>, tensor<16x8xf64>)
      outs(%i : tensor<2x8xf64>) -> tensor<2x8xf64>
  // expected-remark@+2 {{long: i8, 1 groups}}
  // expected-remark@+1 {{long: activations stay floats: a sum of 70016 products may not fit}}
  %1 = linalg.matmul ins(%l, %z : tensor<1x70000xf32>, tensor<70000x2xf32>)
      outs(%j : tensor<1x2xf32>) -> tensor<1x2xf32>
  // expected-remark@+1 {{refused:0: not quantised: a product of two activations has no weight}}
  %2 = linalg.matmul ins(%x, %v : tensor<2x16xf64>, tensor<16x8xf64>)
      outs(%i : tensor<2x8xf64>) -> tensor<2x8xf64>
  return %0, %1, %2 : tensor<2x8xf64>, tensor<1x2xf32>, tensor<2x8xf64>
}
