// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"power*\",\"form\":\"bipolar\",\"planes\":2,\"scales\":\"power\"},{\"match\":\"*\",\"form\":\"bipolar\"}]"},lowc-lower-bipolar,lowc-verify-no-multiplication,canonicalize,cse)' | filecheck %s

// Signs of 40 inputs are two words; scales are mean magnitudes, and multiply after the product.

// CHECK-LABEL: func.func @signs
// CHECK-SAME: (%[[Q:.*]]: tensor<2x3x40xf32>, %[[K:.*]]: tensor<2x40x5xf32>)
func.func @signs(%q: tensor<2x3x40xf32>, %k: tensor<2x40x5xf32>) -> tensor<2x3x5xf32> {
  // CHECK: linalg.generic {{.*}}["parallel", "parallel", "reduction"]} ins(%[[Q]] : tensor<2x3x40xf32>) outs(%{{.*}} : tensor<2x3xf32>)
  // CHECK: math.absf
  // CHECK: linalg.generic {{.*}} ins(%[[Q]] : tensor<2x3x40xf32>) outs(%{{.*}} : tensor<2x3x40xi32>)
  // CHECK: arith.cmpf olt
  // CHECK: tensor.pad %{{.*}} low[0, 0, 0] high[0, 0, 24]
  // CHECK: linalg.generic {{.*}} outs(%{{.*}} : tensor<2x3x1x2xi32>)
  // CHECK: arith.ori
  // CHECK: linalg.generic {{.*}} outs(%{{.*}} : tensor<2x5x1x2xi32>)
  // CHECK: linalg.generic {{.*}}["parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]} ins(%{{.*}}, %{{.*}} : tensor<2x3x1x2xi32>, tensor<2x5x1x2xi32>) outs(%{{.*}} : tensor<2x3x5xi32>)
  // CHECK-SAME: lowc.product = "{\22kind\22: \22bipolar-products\22, \22planes\22: 1, \22scales\22: \22f32\22, \22k\22: 40}"
  // CHECK: arith.xori
  // CHECK: math.ctpop
  // CHECK: arith.addi
  // CHECK-NOT: arith.mul
  // CHECK: linalg.generic {{.*}} attrs = {lowc.after = "signs:0"}
  // CHECK: arith.sitofp
  // CHECK: arith.mulf
  // CHECK: arith.mulf
  %cst = arith.constant 0.000000e+00 : f32
  %e = tensor.empty() : tensor<2x3x5xf32>
  %f = linalg.fill ins(%cst : f32) outs(%e : tensor<2x3x5xf32>) -> tensor<2x3x5xf32>
  // expected-remark@below {{signs:0: both operands as signs, XOR and counts of bits, scales of rows as f32}}
  %y = linalg.batch_matmul ins(%q, %k : tensor<2x3x40xf32>, tensor<2x40x5xf32>) outs(%f : tensor<2x3x5xf32>) -> tensor<2x3x5xf32>
  return %y : tensor<2x3x5xf32>
}

// -----

// What does not only multiply and add two activations is refused.

// CHECK-LABEL: func.func @refused
func.func @refused(%q: tensor<3x40xf64>, %k: tensor<40x5xf64>) -> tensor<3x5xf64> {
  // CHECK: linalg.matmul {{.*}}lowc.lowering = "exact (it is on f64, and signs are taken of floats up to 32 bits)"
  %cst = arith.constant 0.000000e+00 : f64
  %e = tensor.empty() : tensor<3x5xf64>
  %f = linalg.fill ins(%cst : f64) outs(%e : tensor<3x5xf64>) -> tensor<3x5xf64>
  // expected-remark@below {{not rewritten: it is on f64}}
  %y = linalg.matmul ins(%q, %k : tensor<3x40xf64>, tensor<40x5xf64>) outs(%f : tensor<3x5xf64>) -> tensor<3x5xf64>
  return %y : tensor<3x5xf64>
}
