// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-lift-elementwise)' | filecheck %s

// The scale of an attention's queries: done to the layer's result, and not to what was transposed.

#vector = affine_map<(i, j) -> (j)>
#matrix = affine_map<(i, j) -> (i, j)>
#heads = affine_map<(b, h, t, d) -> (b, h, t, d)>

// CHECK-LABEL: func.func @scale
func.func @scale(%x: tensor<8x12xf32>, %bias: tensor<12xf32>) -> tensor<2x3x4x4xf32> {
  %c = arith.constant 0.5 : f64
  %e = tensor.empty() : tensor<8x12xf32>
  %t = tensor.empty() : tensor<2x3x4x4xf32>
  // CHECK: %[[Y:.*]] = linalg.generic
  // CHECK: arith.addf
  %y = linalg.generic {indexing_maps = [#matrix, #vector, #matrix], iterator_types = ["parallel", "parallel"]}
      ins(%x, %bias : tensor<8x12xf32>, tensor<12xf32>) outs(%e : tensor<8x12xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %s = arith.addf %a, %b : f32
    linalg.yield %s : f32
  } -> tensor<8x12xf32>
  // CHECK: %[[S:.*]] = linalg.generic {{.*}} ins(%[[Y]] : tensor<8x12xf32>)
  // CHECK: arith.truncf
  // CHECK: arith.mulf
  // CHECK: %[[E:.*]] = tensor.expand_shape %[[S]]
  // CHECK: %[[T:.*]] = linalg.transpose ins(%[[E]] : tensor<2x4x3x4xf32>)
  // CHECK-NOT: linalg.generic
  // CHECK: return %[[T]]
  %split = tensor.expand_shape %y [[0, 1], [2, 3]] output_shape [2, 4, 3, 4] : tensor<8x12xf32> into tensor<2x4x3x4xf32>
  %moved = linalg.transpose ins(%split : tensor<2x4x3x4xf32>) outs(%t : tensor<2x3x4x4xf32>) permutation = [0, 2, 1, 3]
  // expected-remark@+1 {{done before it is transposed}}
  %r = linalg.generic {indexing_maps = [#heads, #heads], iterator_types = ["parallel", "parallel", "parallel", "parallel"]}
      ins(%moved : tensor<2x3x4x4xf32>) outs(%t : tensor<2x3x4x4xf32>) {
  ^bb0(%a: f32, %out: f32):
    %f = arith.truncf %c : f64 to f32
    %s = arith.mulf %a, %f : f32
    linalg.yield %s : f32
  } -> tensor<2x3x4x4xf32>
  return %r : tensor<2x3x4x4xf32>
}

// -----
// What is read untransposed too stays, and so does what another tensor is added to.

#matrix = affine_map<(i, j) -> (i, j)>

// CHECK-LABEL: func.func @stays
func.func @stays(%x: tensor<8x12xf32>, %z: tensor<12x8xf32>) -> (tensor<12x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>) {
  %e = tensor.empty() : tensor<8x12xf32>
  %t = tensor.empty() : tensor<12x8xf32>
  // CHECK: math.tanh
  %y = linalg.generic {indexing_maps = [#matrix, #matrix], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<8x12xf32>) outs(%e : tensor<8x12xf32>) {
  ^bb0(%a: f32, %out: f32):
    %s = math.tanh %a : f32
    linalg.yield %s : f32
  } -> tensor<8x12xf32>
  // CHECK: %[[T:.*]] = linalg.transpose
  %moved = linalg.transpose ins(%y : tensor<8x12xf32>) outs(%t : tensor<12x8xf32>) permutation = [1, 0]
  // CHECK: linalg.generic {{.*}} ins(%[[T]] :
  %r = linalg.generic {indexing_maps = [#matrix, #matrix], iterator_types = ["parallel", "parallel"]}
      ins(%moved : tensor<12x8xf32>) outs(%t : tensor<12x8xf32>) {
  ^bb0(%a: f32, %out: f32):
    %s = arith.negf %a : f32
    linalg.yield %s : f32
  } -> tensor<12x8xf32>
  // CHECK: linalg.generic {{.*}} ins(%[[T]], %{{.*}} :
  %q = linalg.generic {indexing_maps = [#matrix, #matrix, #matrix], iterator_types = ["parallel", "parallel"]}
      ins(%moved, %z : tensor<12x8xf32>, tensor<12x8xf32>) outs(%t : tensor<12x8xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %s = arith.addf %a, %b : f32
    linalg.yield %s : f32
  } -> tensor<12x8xf32>
  return %r, %q, %moved : tensor<12x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>
}
