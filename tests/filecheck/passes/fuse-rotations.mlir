// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-fuse-rotations{unit=avx512},canonicalize)' | filecheck %s

// The halves of a head are read from where they are.

#all = affine_map<(s, h, d) -> (s, h, d)>
#angle = affine_map<(s, h, d) -> (s, 0, d)>

// CHECK-LABEL: func.func @turn
func.func @turn(%x: tensor<?x4x64xf32>, %cos: tensor<?x1x64xf32>, %sin: tensor<?x1x64xf32>) -> tensor<?x4x64xf32> {
  // CHECK: %[[C:.*]] = tensor.expand_shape %{{.*}} {{\[\[}}0], [1], [2, 3]]
  // CHECK-NOT: tensor.concat
  // CHECK: %[[Y:.*]] = linalg.generic
  // CHECK: %[[H:.*]] = linalg.index 2
  // CHECK: %[[O:.*]] = arith.subi %{{.*}}, %[[H]]
  // CHECK: %[[E:.*]] = tensor.extract %[[C]][%{{.*}}, %{{.*}}, %[[O]], %{{.*}}]
  // CHECK: arith.negf %[[E]]
  // CHECK: arith.select
  // CHECK: arith.addf
  // CHECK: %[[R:.*]] = tensor.collapse_shape %[[Y]]
  // CHECK: return %[[R]]
  %c0 = arith.constant 0 : index
  %s = tensor.dim %x, %c0 : tensor<?x4x64xf32>
  %low = tensor.extract_slice %x[0, 0, 0] [%s, 4, 32] [1, 1, 1] : tensor<?x4x64xf32> to tensor<?x4x32xf32>
  %high = tensor.extract_slice %x[0, 0, 32] [%s, 4, 32] [1, 1, 1] : tensor<?x4x64xf32> to tensor<?x4x32xf32>
  %e = tensor.empty(%s) : tensor<?x4x64xf32>
  %half = tensor.empty(%s) : tensor<?x4x32xf32>
  %a = linalg.generic {indexing_maps = [#all, #angle, #all], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%x, %cos : tensor<?x4x64xf32>, tensor<?x1x64xf32>) outs(%e : tensor<?x4x64xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %m = arith.mulf %in, %by : f32
    linalg.yield %m : f32
  } -> tensor<?x4x64xf32>
  %n = linalg.generic {indexing_maps = [#all, #all], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%high : tensor<?x4x32xf32>) outs(%half : tensor<?x4x32xf32>) {
  ^bb0(%in: f32, %out: f32):
    %m = arith.negf %in : f32
    linalg.yield %m : f32
  } -> tensor<?x4x32xf32>
  %j = tensor.concat dim(2) %n, %low : (tensor<?x4x32xf32>, tensor<?x4x32xf32>) -> tensor<?x4x64xf32>
  %b = linalg.generic {indexing_maps = [#all, #angle, #all], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%j, %sin : tensor<?x4x64xf32>, tensor<?x1x64xf32>) outs(%e : tensor<?x4x64xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %m = arith.mulf %in, %by : f32
    linalg.yield %m : f32
  } -> tensor<?x4x64xf32>
  // expected-remark@+1 {{a rotation became one loop}}
  %y = linalg.generic {indexing_maps = [#all, #all, #all], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%a, %b : tensor<?x4x64xf32>, tensor<?x4x64xf32>) outs(%e : tensor<?x4x64xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %m = arith.addf %in, %by : f32
    linalg.yield %m : f32
  } -> tensor<?x4x64xf32>
  return %y : tensor<?x4x64xf32>
}

// -----
// Halves in their own order, and parts that are no halves, are no rotation.

#all = affine_map<(h, d) -> (h, d)>

// CHECK-LABEL: func.func @stays
// CHECK: tensor.concat
func.func @stays(%x: tensor<4x64xf32>, %cos: tensor<4x64xf32>, %sin: tensor<4x64xf32>) -> tensor<4x64xf32> {
  %low = tensor.extract_slice %x[0, 0] [4, 32] [1, 1] : tensor<4x64xf32> to tensor<4x32xf32>
  %high = tensor.extract_slice %x[0, 32] [4, 32] [1, 1] : tensor<4x64xf32> to tensor<4x32xf32>
  %e = tensor.empty() : tensor<4x64xf32>
  %half = tensor.empty() : tensor<4x32xf32>
  %a = linalg.generic {indexing_maps = [#all, #all, #all], iterator_types = ["parallel", "parallel"]}
      ins(%x, %cos : tensor<4x64xf32>, tensor<4x64xf32>) outs(%e : tensor<4x64xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %m = arith.mulf %in, %by : f32
    linalg.yield %m : f32
  } -> tensor<4x64xf32>
  %n = linalg.generic {indexing_maps = [#all, #all], iterator_types = ["parallel", "parallel"]}
      ins(%low : tensor<4x32xf32>) outs(%half : tensor<4x32xf32>) {
  ^bb0(%in: f32, %out: f32):
    %m = arith.negf %in : f32
    linalg.yield %m : f32
  } -> tensor<4x32xf32>
  %j = tensor.concat dim(1) %n, %high : (tensor<4x32xf32>, tensor<4x32xf32>) -> tensor<4x64xf32>
  %b = linalg.generic {indexing_maps = [#all, #all, #all], iterator_types = ["parallel", "parallel"]}
      ins(%j, %sin : tensor<4x64xf32>, tensor<4x64xf32>) outs(%e : tensor<4x64xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %m = arith.mulf %in, %by : f32
    linalg.yield %m : f32
  } -> tensor<4x64xf32>
  %y = linalg.generic {indexing_maps = [#all, #all, #all], iterator_types = ["parallel", "parallel"]}
      ins(%a, %b : tensor<4x64xf32>, tensor<4x64xf32>) outs(%e : tensor<4x64xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %m = arith.addf %in, %by : f32
    linalg.yield %m : f32
  } -> tensor<4x64xf32>
  return %y : tensor<4x64xf32>
}
