// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"signed-digits\",\"group\":64,\"activation-scale\":\"group\"}]"},lowc-quantize-weights,lowc-quantize-activations,lowc-lower-shift-add,lowc-verify-no-multiplication,lowc-outline-kernels{unit=avx512})' 2>&1 | filecheck %s
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"signed-digits\",\"weights\":\"i4\",\"group\":64}]"},lowc-quantize-weights{packing=words},lowc-quantize-activations,lowc-lower-shift-add,lowc-verify-no-multiplication)' 2>&1 | filecheck %s --check-prefix=WORDS

// The one multiplication of a product of integers becomes shifts and additions; scales stay behind it,
// counted for the matmul.  The kernels of integer products do not take it.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x128xf32>
// CHECK: remark: fc: i8 in canonical signed digits: no multiplication by a weight
// CHECK: remark: fc: no kernel: form 'dequant' with activations i8 gives the same result by a kernel
// CHECK-LABEL: func.func @linear
func.func @linear(%x: tensor<2x128xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK: %[[D:.*]] = linalg.generic {{.*}}["parallel", "parallel", "parallel", "reduction"]} {{.*}} outs(%{{.*}} : tensor<2x8x2xi32>)
  // CHECK-NOT: lowc.part
  // CHECK-SAME: lowc.lowering = "i8 x i8 in integers, activation scales by group; i8 in canonical signed digits; stock code generation (form 'dequant' with activations i8 gives the same result by a kernel)", lowc.matmul = "fc"
  // CHECK-SAME: lowc.product = "{\22kind\22: \22signed-digits\22
  // CHECK: ^bb0(%[[Q:.*]]: i8, %[[C:.*]]: i8, %[[SUM:.*]]: i32):
  // CHECK-NOT: arith.mul
  // CHECK-DAG: %[[X:.*]] = arith.extsi %[[Q]] : i8 to i32
  // CHECK-DAG: %[[W:.*]] = arith.extsi %[[C]] : i8 to i32
  // CHECK: %[[HALF:.*]] = arith.shrsi %[[W]], %{{.*}} : i32
  // CHECK: %[[TRIPLE:.*]] = arith.addi %[[W]], %[[HALF]] : i32
  // CHECK: %[[CHANGED:.*]] = arith.xori %[[TRIPLE]], %[[HALF]] : i32
  // CHECK: %[[PLUS:.*]] = arith.andi %[[CHANGED]], %[[TRIPLE]] : i32
  // CHECK: %[[MINUS:.*]] = arith.andi %[[CHANGED]], %[[HALF]] : i32
  // CHECK: arith.shli %[[PLUS]], %{{.*}} : i32
  // CHECK: arith.shrsi
  // CHECK: arith.andi %[[X]], %{{.*}} : i32
  // CHECK: arith.addi
  // CHECK: arith.shli %[[MINUS]], %{{.*}} : i32
  // CHECK: arith.subi
  // CHECK: arith.shli %[[X]], %{{.*}} : i32
  // CHECK: %[[ALL:.*]] = arith.addi %[[SUM]], %{{.*}} : i32
  // CHECK: linalg.yield %[[ALL]]
  // The place of a code in its word is multiplied by its bits: an index, and no data.
  // WORDS-LABEL: func.func @linear
  // WORDS: linalg.index 4
  // WORDS: arith.muli %{{.*}}, %{{.*}} : index
  // WORDS: arith.index_cast %{{.*}} : index to i32
  // WORDS-NOT: arith.muli {{.*}} : i32
  // WORDS: arith.xori
  // WORDS: linalg.generic {{.*}}lowc.after = "fc"
  // CHECK: linalg.generic {{.*}} ins(%[[D]], %{{.*}}, %{{.*}} : tensor<2x8x2xi32>, {{.*}} attrs = {lowc.after = "fc"}
  // CHECK: arith.mulf
  %w = util.global.load @fc.weight : tensor<8x128xf32>
  %e = tensor.empty() : tensor<128x8xf32>
  %t = linalg.transpose ins(%w : tensor<8x128xf32>) outs(%e : tensor<128x8xf32>) permutation = [1, 0]
  %y = linalg.matmul ins(%x, %t : tensor<2x128xf32>, tensor<128x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Activations that stay floats are multiplied, and it says so.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<128x8xf64>
// CHECK-LABEL: func.func @wide
// CHECK: lowc.lowering = "dequantised i8, then exact; activations stay floats (it is calculated in f64, and scales are f32); no signed digits (its weight or its activations stayed floats)
func.func @wide(%x: tensor<2x128xf64>, %init: tensor<2x8xf64>) -> tensor<2x8xf64> {
  %w = util.global.load @fc.weight : tensor<128x8xf64>
  %y = linalg.matmul ins(%x, %w : tensor<2x128xf64>, tensor<128x8xf64>)
      outs(%init : tensor<2x8xf64>) -> tensor<2x8xf64>
  return %y : tensor<2x8xf64>
}
