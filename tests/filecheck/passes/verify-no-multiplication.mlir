// RUN: lowc opt %s --verify-diagnostics --pass-pipeline='builtin.module(lowc-verify-no-multiplication)' | filecheck %s

// What is no shift-add product may multiply, and what indices are multiplied by is no data.

// CHECK-LABEL: func.func @main
// CHECK: arith.muli %{{.*}}, %{{.*}} : index
// CHECK: arith.mulf
func.func @main(%x: tensor<8xf32>, %o: tensor<8xf32>) -> (tensor<8xf32>, tensor<8xf32>) {
  %0 = linalg.generic {indexing_maps = [affine_map<(n) -> (n)>, affine_map<(n) -> (n)>],
      iterator_types = ["parallel"], lowc.matmul = "fc", lowc.product = "{\22kind\22: \22signed-sums\22}"}
      ins(%x : tensor<8xf32>) outs(%o : tensor<8xf32>) {
  ^bb0(%a: f32, %b: f32):
    %i = linalg.index 0 : index
    %j = arith.muli %i, %i : index
    %k = arith.index_cast %j : index to i32
    %l = arith.sitofp %k : i32 to f32
    %c = arith.addf %a, %l : f32
    linalg.yield %c : f32
  } -> tensor<8xf32>
  %1 = linalg.generic {indexing_maps = [affine_map<(n) -> (n)>, affine_map<(n) -> (n)>],
      iterator_types = ["parallel"], lowc.matmul = "other"}
      ins(%x : tensor<8xf32>) outs(%o : tensor<8xf32>) {
  ^bb0(%a: f32, %b: f32):
    %c = arith.mulf %a, %b : f32
    linalg.yield %c : f32
  } -> tensor<8xf32>
  return %0, %1 : tensor<8xf32>, tensor<8xf32>
}
