// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-reorder-joins)' | filecheck %s

// The low half is negated and stays where it is: IREE would turn the halves.

#all = affine_map<(h, d) -> (h, d)>

// CHECK-LABEL: func.func @low
// CHECK-SAME: %[[X:.*]]: tensor<4x64xf32>
func.func @low(%x: tensor<4x64xf32>) -> tensor<4x64xf32> {
  %low = tensor.extract_slice %x[0, 0] [4, 32] [1, 1] : tensor<4x64xf32> to tensor<4x32xf32>
  // CHECK: %[[H:.*]] = tensor.extract_slice %[[X]][0, 32]
  %high = tensor.extract_slice %x[0, 32] [4, 32] [1, 1] : tensor<4x64xf32> to tensor<4x32xf32>
  %half = tensor.empty() : tensor<4x32xf32>
  // CHECK: %[[N:.*]] = linalg.generic
  %n = linalg.generic {indexing_maps = [#all, #all], iterator_types = ["parallel", "parallel"]}
      ins(%low : tensor<4x32xf32>) outs(%half : tensor<4x32xf32>) {
  ^bb0(%in: f32, %out: f32):
    %m = arith.negf %in : f32
    linalg.yield %m : f32
  } -> tensor<4x32xf32>
  // CHECK: %[[E:.*]] = tensor.empty() : tensor<4x64xf32>
  // CHECK: %[[S:.*]] = tensor.insert_slice %[[H]] into %[[E]][0, 32] [4, 32] [1, 1]
  // CHECK: %[[J:.*]] = tensor.insert_slice %[[N]] into %[[S]][0, 0] [4, 32] [1, 1]
  // CHECK: return %[[J]]
  // expected-remark@+1 {{joined with its negated part last}}
  %j = tensor.concat dim(1) %n, %high : (tensor<4x32xf32>, tensor<4x32xf32>) -> tensor<4x64xf32>
  return %j : tensor<4x64xf32>
}

// -----
// Parts whose sizes are not known.

// CHECK-LABEL: func.func @unknown
func.func @unknown(%a: tensor<4x?xf32>, %b: tensor<4x?xf32>) -> tensor<4x?xf32> {
  // CHECK: %[[N:.*]] = arith.negf
  %n = arith.negf %a : tensor<4x?xf32>
  // CHECK: %[[A:.*]] = tensor.dim %[[N]]
  // CHECK: %[[B:.*]] = tensor.dim %arg1
  // CHECK: %[[SUM:.*]] = arith.addi %[[A]], %[[B]]
  // CHECK: tensor.empty(%[[SUM]])
  // CHECK: tensor.insert_slice %arg1 into %{{.*}}[0, %[[A]]] [4, %[[B]]]
  // CHECK: tensor.insert_slice %[[N]] into %{{.*}}[0, 0] [4, %[[A]]]
  // expected-remark@+1 {{joined with its negated part last}}
  %j = tensor.concat dim(1) %n, %b : (tensor<4x?xf32>, tensor<4x?xf32>) -> tensor<4x?xf32>
  return %j : tensor<4x?xf32>
}

// -----
// Put into their places one after the other, and the negated half is read across.

#all = affine_map<(h, d) -> (h, d)>
#across = affine_map<(h, d) -> (d, h)>

// CHECK-LABEL: func.func @across
func.func @across(%x: tensor<8x16xf32>, %into: tensor<8x16xf32>) -> tensor<8x16xf32> {
  // CHECK: %[[L:.*]] = tensor.extract_slice
  %low = tensor.extract_slice %x[0, 0] [8, 8] [1, 1] : tensor<8x16xf32> to tensor<8x8xf32>
  %high = tensor.extract_slice %x[0, 8] [8, 8] [1, 1] : tensor<8x16xf32> to tensor<8x8xf32>
  %half = tensor.empty() : tensor<8x8xf32>
  // CHECK: %[[N:.*]] = linalg.generic
  %n = linalg.generic {indexing_maps = [#across, #all], iterator_types = ["parallel", "parallel"]}
      ins(%high : tensor<8x8xf32>) outs(%half : tensor<8x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %m = arith.negf %in : f32
    linalg.yield %m : f32
  } -> tensor<8x8xf32>
  %s = tensor.insert_slice %n into %into[0, 0] [8, 8] [1, 1] : tensor<8x8xf32> into tensor<8x16xf32>
  // CHECK: %[[S:.*]] = tensor.insert_slice %[[L]] into %arg1[0, 8]
  // CHECK: %[[J:.*]] = tensor.insert_slice %[[N]] into %[[S]][0, 0]
  // CHECK: return %[[J]]
  // expected-remark@+1 {{joined with its negated part last}}
  %j = tensor.insert_slice %low into %s[0, 8] [8, 8] [1, 1] : tensor<8x8xf32> into tensor<8x16xf32>
  return %j : tensor<8x16xf32>
}

// -----
// The join of a rotary embedding is what IREE means; along another dimension it looks at none.

#all = affine_map<(h, d) -> (h, d)>

// CHECK-LABEL: func.func @stays
func.func @stays(%x: tensor<4x64xf16>) -> (tensor<4x64xf16>, tensor<8x32xf16>) {
  %low = tensor.extract_slice %x[0, 0] [4, 32] [1, 1] : tensor<4x64xf16> to tensor<4x32xf16>
  %high = tensor.extract_slice %x[0, 32] [4, 32] [1, 1] : tensor<4x64xf16> to tensor<4x32xf16>
  %half = tensor.empty() : tensor<4x32xf16>
  %n = linalg.generic {indexing_maps = [#all, #all], iterator_types = ["parallel", "parallel"]}
      ins(%high : tensor<4x32xf16>) outs(%half : tensor<4x32xf16>) {
  ^bb0(%in: f16, %out: f16):
    %m = arith.negf %in : f16
    linalg.yield %m : f16
  } -> tensor<4x32xf16>
  // CHECK: tensor.concat dim(1)
  %j = tensor.concat dim(1) %n, %low : (tensor<4x32xf16>, tensor<4x32xf16>) -> tensor<4x64xf16>
  // CHECK: tensor.concat dim(0)
  %k = tensor.concat dim(0) %n, %high : (tensor<4x32xf16>, tensor<4x32xf16>) -> tensor<8x32xf16>
  return %j, %k : tensor<4x64xf16>, tensor<8x32xf16>
}
