// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-share-gathers)' | filecheck %s

// A mask by key, which all queries read.

// CHECK-LABEL: func.func @mask
func.func @mask(%mask: tensor<8xi1>, %at: tensor<1x8xi64>, %x: tensor<4x8xf32>, %z: f32, %m: f32) -> tensor<4x8xf32> {
  %e = tensor.empty() : tensor<1x8xi1>
  // CHECK: %[[FOUND:.*]] = linalg.generic
  // CHECK: tensor.extract
  // CHECK: -> tensor<1x8xi1>
  // CHECK: %[[KEPT:.*]] = util.optimization_barrier %[[FOUND]] : tensor<1x8xi1>
  // expected-remark@+1 {{looked up once}}
  %found = linalg.generic {
      indexing_maps = [affine_map<(q, k) -> (q, k)>, affine_map<(q, k) -> (q, k)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%at : tensor<1x8xi64>) outs(%e : tensor<1x8xi1>) {
  ^bb0(%i: i64, %out: i1):
    %j = arith.index_cast %i : i64 to index
    %v = tensor.extract %mask[%j] : tensor<8xi1>
    linalg.yield %v : i1
  } -> tensor<1x8xi1>
  %f = tensor.empty() : tensor<4x8xf32>
  // CHECK: linalg.generic
  // CHECK-SAME: ins(%[[KEPT]], %{{.*}} : tensor<1x8xi1>, tensor<4x8xf32>)
  %r = linalg.generic {
      indexing_maps = [affine_map<(q, k) -> (0, k)>, affine_map<(q, k) -> (q, k)>, affine_map<(q, k) -> (q, k)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%found, %x : tensor<1x8xi1>, tensor<4x8xf32>) outs(%f : tensor<4x8xf32>) {
  ^bb0(%keep: i1, %in: f32, %out: f32):
    %bias = arith.select %keep, %z, %m : f32
    %s = arith.addf %in, %bias : f32
    linalg.yield %s : f32
  } -> tensor<4x8xf32>
  return %r : tensor<4x8xf32>
}

// -----
// An embedding that is added as it is may be looked up where it is added.

// CHECK-LABEL: func.func @embedding
// CHECK-NOT: util.optimization_barrier
func.func @embedding(%table: tensor<100x8xf32>, %at: tensor<4xi64>, %x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %e = tensor.empty() : tensor<4x8xf32>
  %found = linalg.generic {
      indexing_maps = [affine_map<(s, h) -> (s)>, affine_map<(s, h) -> (s, h)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%at : tensor<4xi64>) outs(%e : tensor<4x8xf32>) {
  ^bb0(%i: i64, %out: f32):
    %j = arith.index_cast %i : i64 to index
    %k = linalg.index 1 : index
    %v = tensor.extract %table[%j, %k] : tensor<100x8xf32>
    linalg.yield %v : f32
  } -> tensor<4x8xf32>
  %r = linalg.generic {
      indexing_maps = [affine_map<(s, h) -> (s, h)>, affine_map<(s, h) -> (s, h)>, affine_map<(s, h) -> (s, h)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%found, %x : tensor<4x8xf32>, tensor<4x8xf32>) outs(%e : tensor<4x8xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %s = arith.addf %a, %b : f32
    linalg.yield %s : f32
  } -> tensor<4x8xf32>
  return %r : tensor<4x8xf32>
}

// -----
// Of a size that is not known: IREE would not find it behind a barrier.

// CHECK-LABEL: func.func @dynamic
// CHECK-NOT: util.optimization_barrier
func.func @dynamic(%mask: tensor<?xi1>, %at: tensor<1x?xi64>, %e: tensor<1x?xi1>, %x: tensor<4x?xf32>) -> tensor<4x?xf32> {
  %found = linalg.generic {
      indexing_maps = [affine_map<(b, k) -> (b, k)>, affine_map<(b, k) -> (b, k)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%at : tensor<1x?xi64>) outs(%e : tensor<1x?xi1>) {
  ^bb0(%i: i64, %out: i1):
    %j = arith.index_cast %i : i64 to index
    %v = tensor.extract %mask[%j] : tensor<?xi1>
    linalg.yield %v : i1
  } -> tensor<1x?xi1>
  %r = linalg.generic {
      indexing_maps = [affine_map<(q, k) -> (0, k)>, affine_map<(q, k) -> (q, k)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%found : tensor<1x?xi1>) outs(%x : tensor<4x?xf32>) {
  ^bb0(%keep: i1, %in: f32):
    %z = arith.constant 0.0 : f32
    %s = arith.select %keep, %in, %z : f32
    linalg.yield %s : f32
  } -> tensor<4x?xf32>
  return %r : tensor<4x?xf32>
}
