// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":32,\"of\":\"embedding\"},{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":32}]"},lowc-quantize-weights,lowc-quantize-embeddings,lowc-outline-kernels{unit=avx512},lowc-share-embeddings,canonicalize,cse,symbol-dce)' | filecheck %s

// A table that is the weight of a product: of its codes only the panels are left.

// CHECK-NOT: @embed.weight =
// CHECK-NOT: @embed.weight.i4g32.codes
// CHECK-DAG: util.global private @embed.weight.i4g32.p[[P:32|64]].codes {{.*}} : tensor<1x{{.*}}x8x{{.*}}xi32>
// CHECK-DAG: util.global private @embed.weight.i4g32.p[[P]].scales
util.global private @embed.weight = #flow.parameter.named<"model"::"embed.weight"> : tensor<100x64xf32>
// CHECK-LABEL: func.func @tied
func.func @tied(%tokens: tensor<3xi64>, %x: tensor<3x64xf32>) -> (tensor<3x64xf32>, tensor<3x100xf32>) {
  // CHECK: %[[D:.*]] = linalg.generic {{.*}} outs(%{{.*}} : tensor<3x2x32xf32>)
  // CHECK-SAME: lowc.lookup = "embed", lowc.lowering = "i4 codes in the panels of a product, made floats where looked up"
  // CHECK: %[[W:.*]] = tensor.extract %{{.*}}[%c0{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}] : tensor<1x{{.*}}xi32>
  // CHECK: %[[SHIFTED:.*]] = arith.shrui %[[W]], %{{.*}} : i32
  // CHECK: %[[CODE:.*]] = arith.andi %[[SHIFTED]], %c15{{.*}} : i32
  // CHECK: arith.sitofp
  // CHECK: arith.mulf
  // CHECK: tensor.collapse_shape %[[D]]
  // CHECK: flow.dispatch
  %w = util.global.load @embed.weight : tensor<100x64xf32>
  %e = tensor.empty() : tensor<3x64xf32>
  // expected-remark@below {{looked up in panels of}}
  // expected-remark@below {{embed: i4, 2 groups of 32}}
  %r = linalg.generic {
      indexing_maps = [affine_map<(t, k) -> (t)>, affine_map<(t, k) -> (t, k)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%tokens : tensor<3xi64>) outs(%e : tensor<3x64xf32>) {
  ^bb0(%in: i64, %out: f32):
    %i = arith.index_cast %in : i64 to index
    %k = linalg.index 1 : index
    %v = tensor.extract %w[%i, %k] : tensor<100x64xf32>
    linalg.yield %v : f32
  } -> tensor<3x64xf32>
  %empty = tensor.empty() : tensor<64x100xf32>
  %t = linalg.transpose ins(%w : tensor<100x64xf32>) outs(%empty : tensor<64x100xf32>) permutation = [1, 0]
  %zero = arith.constant 0.0 : f32
  %o = tensor.empty() : tensor<3x100xf32>
  %init = linalg.fill ins(%zero : f32) outs(%o : tensor<3x100xf32>) -> tensor<3x100xf32>
  // expected-remark@below {{embed: i4, 2 groups of 32, 5 bits a weight}}
  // expected-remark@below {{embed: kernel of vectors of 16}}
  %y = linalg.matmul ins(%x, %t : tensor<3x64xf32>, tensor<64x100xf32>) outs(%init : tensor<3x100xf32>) -> tensor<3x100xf32>
  return %r, %y : tensor<3x64xf32>, tensor<3x100xf32>
}

// -----
// One that no product reads keeps its rows.

// CHECK-DAG: util.global private @alone.i4g32.codes
util.global private @alone = #flow.parameter.named<"model"::"alone"> : tensor<100x64xf32>
// CHECK-LABEL: func.func @own_rows
func.func @own_rows(%tokens: tensor<3xi64>) -> tensor<3x64xf32> {
  // CHECK: tensor.extract %{{.*}} : tensor<100x2x32xi4>
  %w = util.global.load @alone : tensor<100x64xf32>
  %e = tensor.empty() : tensor<3x64xf32>
  // expected-remark@below {{i4, 2 groups of 32}}
  %r = linalg.generic {
      indexing_maps = [affine_map<(t, k) -> (t)>, affine_map<(t, k) -> (t, k)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%tokens : tensor<3xi64>) outs(%e : tensor<3x64xf32>) {
  ^bb0(%in: i64, %out: f32):
    %i = arith.index_cast %in : i64 to index
    %k = linalg.index 1 : index
    %v = tensor.extract %w[%i, %k] : tensor<100x64xf32>
    linalg.yield %v : f32
  } -> tensor<3x64xf32>
  return %r : tensor<3x64xf32>
}
