// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-outline-attention{unit=avx512},canonicalize,cse)' | filecheck %s

// Two key-value heads of three queries each; the cache is read where it is.

#whole = affine_map<(b, r, n) -> (b, r, n)>
#row = affine_map<(b, r, n) -> (b, r, 0)>
#reduced = affine_map<(b, r, n) -> (b, r)>

// CHECK: hal.executable.source private @attention_2x3x16_s0x1_0000000000000pm2_v16r16
// CHECK: hal.interface.constant.load
// CHECK-LABEL: func.func @cached
// CHECK-SAME: (%[[Q:.*]]: tensor<2x3x16xf32>, %[[K:.*]]: tensor<40x2x16xf32>, %[[V:.*]]: tensor<40x2x16xf32>, %[[N:.*]]: index)
// CHECK-NOT: linalg
// CHECK: %[[SIZE:.*]] = arith.index_cast %[[N]] : index to i32
// CHECK: %[[Y:.*]] = flow.dispatch @attention_2x3x16{{.*}}](%[[SIZE]], %[[Q]], %[[K]], %[[V]])
// CHECK-SAME: lowc.also = [{{{.*}}lowc.matmul = "a:qk"
// CHECK-SAME: lowc.matmul = "a:pv"
// CHECK-NOT: linalg
// CHECK: return %[[Y]]
func.func @cached(%q: tensor<2x3x16xf32>, %keys: tensor<40x2x16xf32>, %values: tensor<40x2x16xf32>, %n: index) -> tensor<2x3x16xf32> {
  %lowest = arith.constant 0xFF800000 : f32
  %zero = arith.constant 0.0 : f32
  %factor = arith.constant 0.25 : f32
  %k = tensor.extract_slice %keys[0, 0, 0] [%n, 2, 16] [1, 1, 1] : tensor<40x2x16xf32> to tensor<?x2x16xf32>
  %ek = tensor.empty(%n) : tensor<2x16x?xf32>
  %kt = linalg.transpose ins(%k : tensor<?x2x16xf32>) outs(%ek : tensor<2x16x?xf32>) permutation = [1, 2, 0]
  %e = tensor.empty(%n) : tensor<2x3x?xf32>
  %zs = linalg.fill ins(%zero : f32) outs(%e : tensor<2x3x?xf32>) -> tensor<2x3x?xf32>
  %s = linalg.batch_matmul {lowc.matmul = "a:qk", lowc.kind = "product", lowc.form = {form = "exact"}} ins(%q, %kt : tensor<2x3x16xf32>, tensor<2x16x?xf32>) outs(%zs : tensor<2x3x?xf32>) -> tensor<2x3x?xf32>
  %x = linalg.generic {indexing_maps = [#whole, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%s : tensor<2x3x?xf32>) outs(%e : tensor<2x3x?xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = arith.mulf %in, %factor : f32
    linalg.yield %a : f32
  } -> tensor<2x3x?xf32>
  %e1 = tensor.empty() : tensor<2x3xf32>
  %start = linalg.fill ins(%lowest : f32) outs(%e1 : tensor<2x3xf32>) -> tensor<2x3xf32>
  %m = linalg.generic {indexing_maps = [#whole, #reduced], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x : tensor<2x3x?xf32>) outs(%start : tensor<2x3xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = arith.maximumf %in, %out : f32
    linalg.yield %a : f32
  } -> tensor<2x3xf32>
  %largest = tensor.expand_shape %m [[0], [1, 2]] output_shape [2, 3, 1] : tensor<2x3xf32> into tensor<2x3x1xf32>
  %d = linalg.generic {indexing_maps = [#whole, #row, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%x, %largest : tensor<2x3x?xf32>, tensor<2x3x1xf32>) outs(%e : tensor<2x3x?xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %a = arith.subf %in, %by : f32
    linalg.yield %a : f32
  } -> tensor<2x3x?xf32>
  %p = linalg.generic {indexing_maps = [#whole, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%d : tensor<2x3x?xf32>) outs(%e : tensor<2x3x?xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = math.exp %in : f32
    linalg.yield %a : f32
  } -> tensor<2x3x?xf32>
  %et = tensor.empty() : tensor<2x3x1xf32>
  %zt = linalg.fill ins(%zero : f32) outs(%et : tensor<2x3x1xf32>) -> tensor<2x3x1xf32>
  %t = linalg.generic {indexing_maps = [#whole, #row], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%p : tensor<2x3x?xf32>) outs(%zt : tensor<2x3x1xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = arith.addf %in, %out : f32
    linalg.yield %a : f32
  } -> tensor<2x3x1xf32>
  %w = linalg.generic {indexing_maps = [#whole, #row, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%p, %t : tensor<2x3x?xf32>, tensor<2x3x1xf32>) outs(%e : tensor<2x3x?xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %a = arith.divf %in, %by : f32
    linalg.yield %a : f32
  } -> tensor<2x3x?xf32>
  %v = tensor.extract_slice %values[0, 0, 0] [%n, 2, 16] [1, 1, 1] : tensor<40x2x16xf32> to tensor<?x2x16xf32>
  %ev = tensor.empty(%n) : tensor<2x?x16xf32>
  %vt = linalg.transpose ins(%v : tensor<?x2x16xf32>) outs(%ev : tensor<2x?x16xf32>) permutation = [1, 0, 2]
  %ey = tensor.empty() : tensor<2x3x16xf32>
  %zy = linalg.fill ins(%zero : f32) outs(%ey : tensor<2x3x16xf32>) -> tensor<2x3x16xf32>
  %y = linalg.batch_matmul {lowc.matmul = "a:pv", lowc.kind = "product", lowc.form = {form = "exact"}} ins(%w, %vt : tensor<2x3x?xf32>, tensor<2x?x16xf32>) outs(%zy : tensor<2x3x16xf32>) -> tensor<2x3x16xf32>
  return %y : tensor<2x3x16xf32>
}
