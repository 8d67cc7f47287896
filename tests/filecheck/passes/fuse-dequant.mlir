// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"exact*\",\"form\":\"exact\"},{\"match\":\"zero*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16,\"symmetric\":false},{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16}]"},lowc-quantize-weights,lowc-fuse-dequant,canonicalize,cse)' | filecheck %s
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"fc\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16}]"},lowc-quantize-weights,lowc-fuse-dequant{max-rows=1})' 2>&1 | filecheck %s --check-prefix=ONE
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"fc\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16}]"},lowc-quantize-weights{packing=words},lowc-fuse-dequant)' 2>&1 | filecheck %s --check-prefix=WORDS

// A smaller limit refuses what the default fuses.
// ONE: fc: not fused: 2 rows > 1

// Codes in words are never fused.
// WORDS: [lowc-quantize-weights]
// WORDS-NOT: [lowc-fuse-dequant]

// Two rows: K becomes a loop over groups and one inside a group, and no float weight exists.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x32xf32>
// CHECK-LABEL: func.func @few_rows
func.func @few_rows(%x: tensor<2x32xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK-NOT: tensor<8x32xf32>
  // CHECK: %[[CODES:.*]] = util.optimization_barrier %{{.*}} : tensor<8x2x16xi4>
  // CHECK: %[[SCALES:.*]] = util.global.load @fc.weight.i4g16.scales : tensor<8x2xf32>
  // CHECK: %[[X:.*]] = tensor.expand_shape %{{.*}} {{\[\[}}0], [1, 2]] output_shape [2, 2, 16] : tensor<2x32xf32> into tensor<2x2x16xf32>
  // CHECK: linalg.generic {{.*}}iterator_types = ["parallel", "parallel", "reduction", "reduction"]} ins(%[[X]], %[[CODES]], %[[SCALES]] : tensor<2x2x16xf32>, tensor<8x2x16xi4>, tensor<8x2xf32>)
  // CHECK-SAME: lowc.bits = 6.000000e+00 : f64
  // CHECK-SAME: lowc.lowering = "dequantised i4, then exact; dequantised inside the product (2 rows)", lowc.matmul = "fc"
  // CHECK: ^bb0(%[[A:.*]]: f32, %[[Q:.*]]: i4, %[[S:.*]]: f32, %[[ACC:.*]]: f32):
  // CHECK: %[[F:.*]] = arith.sitofp %[[Q]] : i4 to f32
  // CHECK: %[[V:.*]] = arith.mulf %[[F]], %[[S]] : f32
  // CHECK: %[[P:.*]] = arith.mulf %[[A]], %[[V]] : f32
  // CHECK: arith.addf %[[ACC]], %[[P]] : f32
  // CHECK-NOT: linalg.generic
  %w = util.global.load @fc.weight : tensor<8x32xf32>
  %e = tensor.empty() : tensor<32x8xf32>
  %t = linalg.transpose ins(%w : tensor<8x32xf32>) outs(%e : tensor<32x8xf32>) permutation = [1, 0]
  // expected-remark@+2 {{fc: i4}}
  // expected-remark@+1 {{fc: fused}}
  %y = linalg.matmul ins(%x, %t : tensor<2x32xf32>, tensor<32x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Many rows: refused, with the reason in the report.

util.global private @many.weight = #flow.parameter.named<"model"::"many.weight"> : tensor<32x8xf32>
// CHECK-LABEL: func.func @many_rows
func.func @many_rows(%x: tensor<5x32xf32>, %init: tensor<5x8xf32>) -> tensor<5x8xf32> {
  // CHECK: tensor.collapse_shape {{.*}} into tensor<8x32xf32>
  // CHECK: linalg.generic
  // CHECK-SAME: lowc.lowering = "dequantised i4, then exact; dequantised ahead of the product (5 rows > 4: the weight is made float once per call instead of once per row)"
  %w = util.global.load @many.weight : tensor<32x8xf32>
  // expected-remark@+2 {{many: i4}}
  // expected-remark@+1 {{many: not fused: 5 rows > 4}}
  %y = linalg.matmul ins(%x, %w : tensor<5x32xf32>, tensor<32x8xf32>)
      outs(%init : tensor<5x8xf32>) -> tensor<5x8xf32>
  return %y : tensor<5x8xf32>
}

// -----
// Rows that are only known at run time: both ways behind a test, each with its own dequantisation,
// and a tail group that is padded before either.

util.global private @any.weight = #flow.parameter.named<"model"::"any.weight"> : tensor<37x8xf32>
// CHECK-LABEL: func.func @any_rows
func.func @any_rows(%x: tensor<?x37xf32>, %init: tensor<?x8xf32>) -> tensor<?x8xf32> {
  // CHECK-NOT: arith.sitofp
  // CHECK: %[[FEW:.*]] = arith.cmpi ule, %{{.*}}, %c4
  // CHECK-NOT: arith.sitofp
  // CHECK: scf.if %[[FEW]] -> (tensor<?x8xf32>) {
  // CHECK: linalg.generic {{.*}} : tensor<?x3x16xf32>, tensor<8x3x16xi4>, tensor<8x3xf32>)
  // CHECK-SAME: lowc.lowering = "dequantised i4, then exact; at run time: inside the product up to 4 rows, else ahead of it"
  // CHECK: } else {
  // CHECK: arith.sitofp
  // CHECK: tensor.collapse_shape {{.*}} into tensor<8x48xf32>
  // CHECK: linalg.generic {{.*}} : tensor<?x48xf32>, tensor<8x48xf32>)
  // CHECK-SAME: lowc.lowering = "dequantised i4, then exact; at run time: inside the product up to 4 rows, else ahead of it"
  %w = util.global.load @any.weight : tensor<37x8xf32>
  // expected-remark@+2 {{any: i4}}
  // expected-remark@+1 {{any: fused up to 4 rows at run time}}
  %y = linalg.matmul ins(%x, %w : tensor<?x37xf32>, tensor<37x8xf32>)
      outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----
// Zero points are subtracted in the body.  A vector counts as one row.

util.global private @zero.weight = #flow.parameter.named<"model"::"zero.weight"> : tensor<8x32xf32>
// CHECK-LABEL: func.func @zero_points
func.func @zero_points(%v: tensor<32xf32>, %init: tensor<8xf32>) -> tensor<8xf32> {
  // CHECK: linalg.generic {{.*}} : tensor<2x16xf32>, tensor<8x2x16xi4>, tensor<8x2xf32>, tensor<8x2xi8>) outs(%{{.*}} : tensor<8xf32>)
  // CHECK-SAME: (1 rows)
  // CHECK: %[[Q:.*]] = arith.extui %{{.*}} : i4 to i32
  // CHECK: %[[Z:.*]] = arith.extui %{{.*}} : i8 to i32
  // CHECK: arith.subi %[[Q]], %[[Z]] : i32
  %w = util.global.load @zero.weight : tensor<8x32xf32>
  // expected-remark@+2 {{zero: i4}}
  // expected-remark@+1 {{zero: fused}}
  %y = linalg.matvec ins(%w, %v : tensor<8x32xf32>, tensor<32xf32>)
      outs(%init : tensor<8xf32>) -> tensor<8xf32>
  return %y : tensor<8xf32>
}

// -----
// Rows of every batch entry meet a shared weight: 3 x 2 of them are too many.  A weight that has
// the batch itself meets 2.

util.global private @shared.weight = #flow.parameter.named<"model"::"shared.weight"> : tensor<16x8xf32>
util.global private @own.weight = #flow.parameter.named<"model"::"own.weight"> : tensor<3x16x8xf32>
// CHECK-LABEL: func.func @batch
func.func @batch(%x: tensor<3x2x16xf32>, %e: tensor<3x16x8xf32>, %init: tensor<3x2x8xf32>)
    -> (tensor<3x2x8xf32>, tensor<3x2x8xf32>) {
  %w = util.global.load @shared.weight : tensor<16x8xf32>
  %b = linalg.broadcast ins(%w : tensor<16x8xf32>) outs(%e : tensor<3x16x8xf32>) dimensions = [0]
  // expected-remark@+2 {{shared: i4}}
  // expected-remark@+1 {{shared: not fused: 6 rows > 4}}
  %0 = linalg.batch_matmul ins(%x, %b : tensor<3x2x16xf32>, tensor<3x16x8xf32>)
      outs(%init : tensor<3x2x8xf32>) -> tensor<3x2x8xf32>
  // CHECK: linalg.generic {{.*}} : tensor<3x2x1x16xf32>, tensor<3x8x1x16xi4>, tensor<3x8x1xf32>)
  %v = util.global.load @own.weight : tensor<3x16x8xf32>
  // expected-remark@+2 {{own: i4}}
  // expected-remark@+1 {{own: fused}}
  %1 = linalg.batch_matmul ins(%x, %v : tensor<3x2x16xf32>, tensor<3x16x8xf32>)
      outs(%init : tensor<3x2x8xf32>) -> tensor<3x2x8xf32>
  return %0, %1 : tensor<3x2x8xf32>, tensor<3x2x8xf32>
}

// -----
// The weight on the left; its rows are N here.

util.global private @left = #flow.parameter.named<"model"::"left"> : tensor<8x16xf32>
// CHECK-LABEL: func.func @weight_on_the_left
func.func @weight_on_the_left(%x: tensor<16x2xf32>, %init: tensor<8x2xf32>) -> tensor<8x2xf32> {
  // CHECK: tensor.expand_shape %{{.*}} : tensor<16x2xf32> into tensor<1x16x2xf32>
  // CHECK: linalg.generic {{.*}} : tensor<1x16x2xf32>, tensor<8x1x16xi4>, tensor<8x1xf32>) outs(%{{.*}} : tensor<8x2xf32>)
  %w = util.global.load @left : tensor<8x16xf32>
  // expected-remark@+2 {{left: i4}}
  // expected-remark@+1 {{left: fused}}
  %y = linalg.matmul ins(%w, %x : tensor<8x16xf32>, tensor<16x2xf32>)
      outs(%init : tensor<8x2xf32>) -> tensor<8x2xf32>
  return %y : tensor<8x2xf32>
}

// -----
// Not its business: an exact matmul, and one that quantisation refused.

util.global private @exact.weight = #flow.parameter.named<"model"::"exact.weight"> : tensor<16x8xf32>
// CHECK-LABEL: func.func @exact
func.func @exact(%x: tensor<2x16xf32>, %y: tensor<8x8xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK: linalg.matmul {{.*}}lowc.matmul = "exact"
  %w = util.global.load @exact.weight : tensor<16x8xf32>
  %0 = linalg.matmul ins(%x, %w : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK: linalg.matmul {{.*}}lowc.matmul = "product:0"
  // expected-remark@unknown {{product:0: not quantised}}
  %1 = linalg.matmul ins(%0, %y : tensor<2x8xf32>, tensor<8x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32> loc("product")
  return %1 : tensor<2x8xf32>
}
