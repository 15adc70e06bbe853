// Asks an export as TensorFlow Serving does: tensorflow::LoadSavedModel with the tag "serve", then a
// signature. No Python, no Keras.
//
//   serve EXPORT SIGNATURE LIBRARIES NAME=TEXT,TEXT,... NAME=...
//
// LIBRARIES are those of TensorFlow Text, with ":" between them. Texts are hexadecimal, and so are
// strings in what is printed: a line for each output, "name value value ...".

#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/protobuf/meta_graph.pb.h"
#include "tensorflow/core/public/session_options.h"

namespace tf = tensorflow;

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

std::string FromHex(const std::string& digits) {
  std::string bytes;
  for (size_t i = 0; i + 1 < digits.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  return bytes;
}

void Require(const absl::Status& status, const char* what) {
  if (status.ok()) return;
  std::cerr << what << ": " << status.ToString() << "\n";
  std::exit(1);
}

void LoadOps(const std::string& libraries) {
  for (const auto& library : Split(libraries, ':')) {
    TF_Status* status = TF_NewStatus();
    TF_LoadLibrary(library.c_str(), status);
    if (TF_GetCode(status) != TF_OK) {
      std::cerr << library << ": " << TF_Message(status) << "\n";
      std::exit(1);
    }
    TF_DeleteStatus(status);
  }
}

// "NAME=HEX,HEX," is a column of strings; an empty text is nothing before its comma.
std::pair<std::string, tf::Tensor> Column(const std::string& argument) {
  const size_t equals = argument.find('=');
  const auto texts = Split(argument.substr(equals + 1), ',');
  tf::Tensor tensor(tf::DT_STRING, tf::TensorShape({static_cast<int64_t>(texts.size())}));
  for (size_t i = 0; i < texts.size(); ++i) tensor.flat<tf::tstring>()(i) = FromHex(texts[i]);
  return {argument.substr(0, equals), tensor};
}

void Print(const std::string& name, const tf::Tensor& tensor) {
  std::printf("%s", name.c_str());
  for (int64_t i = 0; i < tensor.NumElements(); ++i) {
    if (tensor.dtype() == tf::DT_STRING) {
      std::printf(" x");
      for (unsigned char byte : std::string(tensor.flat<tf::tstring>()(i)))
        std::printf("%02x", byte);
    } else if (tensor.dtype() == tf::DT_FLOAT) {
      std::printf(" %.9g", tensor.flat<float>()(i));
    } else {
      std::printf(" %d", tensor.flat<tf::int32>()(i));
    }
  }
  std::printf("\n");
}

int main(int argc, char** argv) {
  LoadOps(argv[3]);
  tf::SavedModelBundle bundle;
  Require(tf::LoadSavedModel(tf::SessionOptions(), tf::RunOptions(), argv[1], {"serve"}, &bundle),
          "LoadSavedModel");
  const auto& signature = bundle.GetSignatures().at(argv[2]);
  std::vector<std::pair<std::string, tf::Tensor>> feeds;
  for (int i = 4; i < argc; ++i) {
    auto column = Column(argv[i]);
    feeds.emplace_back(signature.inputs().at(column.first).name(), column.second);
  }
  std::vector<std::string> names, fetches;
  for (const auto& [name, info] : signature.outputs()) {
    names.push_back(name);
    fetches.push_back(info.name());
  }
  std::vector<tf::Tensor> outputs;
  Require(bundle.GetSession()->Run(feeds, fetches, {}, &outputs), "Run");
  for (size_t i = 0; i < outputs.size(); ++i) Print(names[i], outputs[i]);
  return 0;
}
