// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-clamp-indices)' | filecheck %s

// An embedding: the index is an input as it is, so the runtime can check it before the call.

// CHECK-LABEL: func.func @embedding
// CHECK-SAME: attributes {lowc.index_bounds = "{{\[\[}}0,100]]"}
func.func @embedding(%ids: tensor<1x4xi64>, %table: tensor<100x8xf32>) -> tensor<1x4x8xf32> {
  %e = tensor.empty() : tensor<1x4x8xf32>
  // CHECK: ^bb0(%[[ID:.*]]: i64, %{{.*}}: f32):
  // CHECK: %[[I:.*]] = arith.index_cast %[[ID]] : i64 to index
  // CHECK: %[[J:.*]] = linalg.index 2 : index
  // CHECK: %[[LAST:.*]] = arith.constant 99 : index
  // CHECK: %[[LOW:.*]] = arith.minsi %[[I]], %[[LAST]] : index
  // CHECK: %[[ZERO:.*]] = arith.constant 0 : index
  // CHECK: %[[SAFE:.*]] = arith.maxsi %[[LOW]], %[[ZERO]] : index
  // CHECK: tensor.extract %{{.*}}[%[[SAFE]], %[[J]]] : tensor<100x8xf32>
  // expected-remark@+9 {{indices checked before the call}}
  %r = linalg.generic {
      indexing_maps = [affine_map<(b, s, h) -> (b, s)>, affine_map<(b, s, h) -> (b, s, h)>],
      iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%ids : tensor<1x4xi64>) outs(%e : tensor<1x4x8xf32>) {
  ^bb0(%id: i64, %out: f32):
    %i = arith.index_cast %id : i64 to index
    %j = linalg.index 2 : index
    // The remark belongs to the look-up.
    %v = tensor.extract %table[%i, %j] : tensor<100x8xf32>
    linalg.yield %v : f32
  } -> tensor<1x4x8xf32>
  return %r : tensor<1x4x8xf32>
}

// -----
// Two tables and one input: the smaller table sets the bound.  The input is seen through a reshape
// and an extension.

// CHECK-LABEL: func.func @two_tables
// CHECK-SAME: lowc.index_bounds = "{{\[\[}}0,50]]"
func.func @two_tables(%ids: tensor<1x4xi32>, %a: tensor<100xf32>, %b: tensor<50xf32>) -> tensor<4xf32> {
  %flat = tensor.collapse_shape %ids [[0, 1]] : tensor<1x4xi32> into tensor<4xi32>
  %e = tensor.empty() : tensor<4xf32>
  // CHECK: arith.constant 99 : index
  // CHECK: tensor.extract
  // CHECK: arith.constant 49 : index
  // CHECK: tensor.extract
  %r = linalg.generic {
      indexing_maps = [affine_map<(s) -> (s)>, affine_map<(s) -> (s)>],
      iterator_types = ["parallel"]}
      ins(%flat : tensor<4xi32>) outs(%e : tensor<4xf32>) {
  ^bb0(%id: i32, %out: f32):
    %wide = arith.extsi %id : i32 to i64
    %i = arith.index_cast %wide : i64 to index
    %v = tensor.extract %a[%i] : tensor<100xf32>
    %w = tensor.extract %b[%i] : tensor<50xf32>
    %s = arith.addf %v, %w : f32
    linalg.yield %s : f32
  } -> tensor<4xf32>
  return %r : tensor<4xf32>
}

// -----
// A calculated index, and a table whose size is not known: clamped, but nothing to check beforehand.

// CHECK-LABEL: func.func @calculated
// CHECK-NOT: lowc.index_bounds
func.func @calculated(%ids: tensor<4xi64>, %a: tensor<100xf32>, %b: tensor<?xf32>) -> tensor<4xf32> {
  %e = tensor.empty() : tensor<4xf32>
  // CHECK: %[[SUM:.*]] = arith.addi
  // CHECK: %[[I:.*]] = arith.index_cast %[[SUM]]
  // CHECK: arith.minsi %[[I]], %{{.*}} : index
  // CHECK: %[[A:.*]] = arith.maxsi
  // CHECK: tensor.extract %{{.*}}[%[[A]]] : tensor<100xf32>
  // CHECK: %[[SIZE:.*]] = tensor.dim %{{.*}} : tensor<?xf32>
  // CHECK: %[[LAST:.*]] = arith.subi %[[SIZE]], %{{.*}} : index
  // CHECK: arith.minsi %{{.*}}, %[[LAST]] : index
  // CHECK: %[[B:.*]] = arith.maxsi
  // CHECK: tensor.extract %{{.*}}[%[[B]]] : tensor<?xf32>
  %r = linalg.generic {
      indexing_maps = [affine_map<(s) -> (s)>, affine_map<(s) -> (s)>],
      iterator_types = ["parallel"]}
      ins(%ids : tensor<4xi64>) outs(%e : tensor<4xf32>) {
  ^bb0(%id: i64, %out: f32):
    %sum = arith.addi %id, %id : i64
    %i = arith.index_cast %sum : i64 to index
    %j = arith.index_cast %id : i64 to index
    // expected-remark@below {{indices clamped without a check}}
    %v = tensor.extract %a[%i] : tensor<100xf32>
    %w = tensor.extract %b[%j] : tensor<?xf32>
    %s = arith.addf %v, %w : f32
    linalg.yield %s : f32
  } -> tensor<4xf32>
  return %r : tensor<4xf32>
}

// -----
// Loop indices and constants are inside the tensor already.

// CHECK-LABEL: func.func @static
// CHECK-NOT: arith.minsi
func.func @static(%a: tensor<4x4xf32>) -> tensor<4xf32> {
  %e = tensor.empty() : tensor<4xf32>
  %c = arith.constant 3 : index
  %r = linalg.generic {
      indexing_maps = [affine_map<(s) -> (s)>], iterator_types = ["parallel"]}
      outs(%e : tensor<4xf32>) {
  ^bb0(%out: f32):
    %i = linalg.index 0 : index
    %v = tensor.extract %a[%i, %c] : tensor<4x4xf32>
    linalg.yield %v : f32
  } -> tensor<4xf32>
  return %r : tensor<4xf32>
}
